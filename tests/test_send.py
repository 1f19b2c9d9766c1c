"""Sending, against a peer that misbehaves on request; a real PACS is in ``test_pacs.py``."""

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, build_role, evt

from lungvq.errors import InputError, NetworkError, UsageError
from lungvq.export.dicom.names import CT_IMAGE, LABEL_MAP
from lungvq.export.folder import open_run
from lungvq.send import AUTHORIZATION, Peer, Sending, objects_of, send, stow

COMMITMENT = "1.2.840.10008.1.20.1"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def an_object(path, number, sop_class=CT_IMAGE, compressed=False):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = sop_class, f"1.2.3.{number}"
    image.PatientName, image.PatientID, image.StudyInstanceUID = "Ä^B", "1", "1.2.9"
    image.SeriesInstanceUID, image.SpecificCharacterSet = "1.2.8", "ISO_IR 192"
    image.Rows = image.Columns = 4
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = np.arange(16, dtype=np.uint16).tobytes()
    if compressed:
        image.compress(RLELossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


@pytest.fixture
def result(tmp_path):
    """A finished run with three slices and a compressed label map."""
    out = tmp_path / "out"
    folder = open_run(out, "k")
    for n in range(3):
        an_object(folder.stage / f"dicom/ventilation/{n + 1:04d}.dcm", n)
    an_object(folder.stage / "dicom/labelmap_lobes.dcm", 9, LABEL_MAP, compressed=True)
    folder.finish({"key": "k", "qc": "PASS"})
    return out


class Archive:
    """A storage provider on loopback.

    `answers` are statuses to give before all is well; `commits` is one of yes, no, silent, less.
    """

    def __init__(self, classes=(CT_IMAGE, LABEL_MAP), syntaxes=None, answers=(), commits="yes", listen=None):
        self.got, self.answers, self.commits, self.listen = {}, list(answers), commits, listen
        self.associations = 0
        entity = AE(ae_title="ARCHIVE")
        entity.require_called_aet = True
        for sop_class in classes:
            entity.add_supported_context(
                sop_class, syntaxes or [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless]
            )
        if commits != "no":
            entity.add_supported_context(COMMITMENT)
        self.port = free_port()
        handlers = [
            (evt.EVT_C_STORE, self.store),
            (evt.EVT_N_ACTION, self.asked),
            (evt.EVT_ESTABLISHED, self.met),
        ]
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.peer = Peer("ARCHIVE", "127.0.0.1", self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()

    def met(self, event):
        self.associations += 1

    def store(self, event):
        status = self.answers.pop(0) if self.answers else 0x0000
        if status == "abort":
            event.assoc.abort()
            return 0xC000
        if status in (0x0000, 0xB007):
            uid = event.request.AffectedSOPInstanceUID
            self.got[uid] = (event.context.transfer_syntax, event.request.DataSet.getvalue())
        return status

    def asked(self, event):
        information = event.action_information
        if self.commits != "silent":
            threading.Thread(target=self.report, args=(information,), daemon=True).start()
        return 0x0000, None

    def report(self, information):
        told = Dataset()
        told.TransactionUID = information.TransactionUID
        kept = list(information.ReferencedSOPSequence)[self.commits == "less" :]
        told.ReferencedSOPSequence = kept
        entity = AE(ae_title="ARCHIVE")
        entity.add_requested_context(COMMITMENT)
        association = entity.associate(
            "127.0.0.1",
            self.listen,
            ae_title="LUNGVQ",
            ext_neg=[build_role(COMMITMENT, scp_role=True)],
        )
        assert association.is_established
        association.send_n_event_report(told, 1, COMMITMENT, "1.2.840.10008.1.20.1.1")
        association.release()


def quick(**options):
    return Sending(**{"commit": False, "timeout": 4.0, "pause": 0.01, **options})


def test_every_object_arrives_byte_by_byte(result):
    objects = objects_of(result)
    with Archive() as archive:
        outcome = send(objects, archive.peer, quick())
    assert (outcome.stored, outcome.committed, outcome.notes) == (4, None, ())
    for item in objects:
        syntax, data = archive.got[item.instance]
        assert syntax == item.syntax
        assert item.path.read_bytes().endswith(data)


def test_storage_commitment_is_asked_for_and_awaited(result):
    listen = free_port()
    with Archive(listen=listen) as archive:
        outcome = send(objects_of(result), archive.peer, quick(commit=True, listen=listen))
    assert (outcome.stored, outcome.committed) == (4, 4)


@pytest.mark.parametrize(
    ("commits", "says"), [("silent", "did not commit them within 1 s"), ("less", "did not commit 1 of 4")]
)
def test_what_is_not_committed_is_an_error(commits, says, result):
    listen = free_port()
    options = quick(commit=True, listen=listen, timeout=1.0)
    with Archive(commits=commits, listen=listen) as archive, pytest.raises(NetworkError, match=says) as error:
        send(objects_of(result), archive.peer, options)
    assert error.value.exit_code == 7
    assert len(archive.got) == 4


def test_a_peer_without_commitment_is_a_note(result):
    with Archive(commits="no") as archive:
        outcome = send(objects_of(result), archive.peer, quick(commit=True, listen=free_port()))
    assert (outcome.stored, outcome.committed) == (4, None)
    assert "does not offer storage commitment" in outcome.notes[0]


def test_a_port_that_is_taken_is_one_sentence(result):
    with Archive() as archive, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = quick(commit=True, listen=taken.getsockname()[1])
        with pytest.raises(NetworkError, match="--listen"):
            send(objects_of(result), archive.peer, options)


@pytest.mark.parametrize("answers", [[0xA700], [0, "abort"], [0, 0xA701, 0xA702, 0]])
def test_what_failed_is_tried_again_and_only_that(answers, result):
    with Archive(answers=answers) as archive:
        outcome = send(objects_of(result), archive.peer, quick())
    assert outcome.stored == len(archive.got) == 4
    assert archive.associations == 2


def test_a_warning_counts_as_stored(result):
    with Archive(answers=[0xB007]) as archive:
        assert send(objects_of(result), archive.peer, quick()).stored == 4


def test_what_is_refused_for_good_is_not_tried_again(result):
    with Archive(answers=[0xC000]) as archive, pytest.raises(NetworkError, match=r"1 of 4 .* 0xC000"):
        send(objects_of(result), archive.peer, quick())
    assert archive.associations == 1


def test_it_gives_up_after_the_last_attempt(result):
    with Archive(answers=[0xA700] * 99) as archive, pytest.raises(NetworkError, match="4 of 4"):
        send(objects_of(result), archive.peer, quick(attempts=2))
    assert archive.associations == 2


def test_a_label_map_that_is_not_known_is_left_out_with_a_note(result):
    with Archive(classes=[CT_IMAGE]) as archive:
        outcome = send(objects_of(result), archive.peer, quick())
        only = [item for item in objects_of(result) if item.sop_class == LABEL_MAP]
        assert send(only, archive.peer, quick()).stored == 0
    assert outcome.stored == 3
    assert "labelmap_lobes.dcm was left out" in outcome.notes[0]
    with Archive(classes=[LABEL_MAP]) as archive, pytest.raises(NetworkError, match="does not take CT Image"):
        send(objects_of(result), archive.peer, quick())


def test_a_peer_that_cannot_unpack_gets_it_unpacked(result):
    with Archive(syntaxes=[ImplicitVRLittleEndian]) as archive:
        assert send(objects_of(result), archive.peer, quick()).stored == 4
    syntax, data = archive.got["1.2.3.9"]
    assert syntax == ImplicitVRLittleEndian
    assert np.arange(16, dtype=np.uint16).tobytes() in data


def test_nobody_there_and_the_wrong_name(result):
    with pytest.raises(NetworkError, match="does not answer"):
        send(objects_of(result), Peer("A", "127.0.0.1", free_port()), quick(attempts=2))
    with Archive() as archive, pytest.raises(NetworkError, match="called ae title not recognised"):
        send(objects_of(result), Peer("OTHER", "127.0.0.1", archive.port), quick(attempts=1))


@pytest.mark.parametrize(
    "text", ["", "A", "A@b", "A@b:", "A@b:0", "A@b:70000", "@b:1", "TOOLONGATITLE12345@b:1", "A@b c:1"]
)
def test_a_destination_that_is_none(text):
    with pytest.raises(UsageError, match="AET@HOST:PORT"):
        Peer.parse(text)


def test_a_destination_by_number():
    assert Peer.parse("A B@[::1]:104") == Peer("A B", "::1", 104)


def test_only_a_finished_and_unchanged_result_with_dicom_is_sent(result, tmp_path):
    with pytest.raises(InputError, match="not a finished result"):
        objects_of(tmp_path)
    (result / "dicom/ventilation/0001.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match="not as it was written"):
        objects_of(result)
    plain = tmp_path / "plain"
    folder = open_run(plain, "k")
    folder.finish({"key": "k", "qc": "PASS"})
    with pytest.raises(InputError, match="--dicom"):
        objects_of(plain)


@pytest.mark.parametrize("package", ["pynetdicom", "dicomweb_client"])
def test_without_the_extra_one_sentence_says_how_to_get_it(package, result, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    way, where = {
        "pynetdicom": (send, Peer("A", "127.0.0.1", 1)),
        "dicomweb_client": (stow, "http://127.0.0.1:1/dicom-web"),
    }[package]
    with pytest.raises(UsageError, match=r"pip install 'lungvq\[net\]'"):
        way(objects_of(result), where)


# --- STOW-RS ----------------------------------------------------------------------------------------------


class Web:
    """A DICOMweb server that answers as told: (status, instances that it fails)."""

    def __init__(self, *answers):
        web = self
        self.answers, self.posts, self.authorization = list(answers), [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.posts.append(body)
                web.authorization.append(self.headers.get("Authorization"))
                status, failed = web.answers.pop(0) if web.answers else (200, [])
                told = Dataset()
                instances = [
                    pydicom.dcmread(pydicom.filebase.DicomBytesIO(part.split(b"\r\n\r\n", 1)[1]))
                    for part in body.split(b"--0f3cf5c0")[1:-1]
                ]
                told.ReferencedSOPSequence = [
                    reference(i.SOPInstanceUID) for i in instances if i.SOPInstanceUID not in failed
                ]
                if failed:
                    told.FailedSOPSequence = [reference(uid) for uid in failed]
                    for item in told.FailedSOPSequence:
                        item.FailureReason = 0x0122
                data = json.dumps(told.to_json_dict()).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def reference(uid):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT_IMAGE, uid
    return item


def test_stow_posts_every_file_as_it_is(result, monkeypatch):
    monkeypatch.setenv(AUTHORIZATION, "Bearer abc")
    with Web() as web:
        assert stow(objects_of(result), web.url, quick()).stored == 4
    assert web.authorization == ["Bearer abc"]
    assert all(item.path.read_bytes() in web.posts[0] for item in objects_of(result))


def test_stow_tries_again_when_the_server_is_busy(result):
    with Web((503, []), (429, [])) as web:
        assert stow(objects_of(result), web.url, quick()).stored == 4
    assert len(web.posts) == 3


def test_stow_tells_what_was_refused(result):
    with Web((202, ["1.2.3.1"])) as web, pytest.raises(NetworkError, match=r"1 of 4 .*0x0122"):
        stow(objects_of(result), web.url, quick())
    with Web((202, ["1.2.3.9"])) as web:
        outcome = stow(objects_of(result), web.url, quick())
    assert outcome.stored == 3
    assert "labelmap" in outcome.notes[0]
    with Web((401, [])) as web, pytest.raises(NetworkError, match="answers 401"):
        stow(objects_of(result), web.url, quick())
    assert len(web.posts) == 1


def test_stow_to_nobody_and_to_no_address(result):
    with pytest.raises(NetworkError, match="no answer"):
        stow(objects_of(result), f"http://127.0.0.1:{free_port()}/x", quick(attempts=2))
    for url in ("ftp://a/b", "http://me:secret@host/x", "host/x"):
        with pytest.raises(UsageError, match=AUTHORIZATION):
            stow(objects_of(result), url)
