"""To a PACS: the DICOM objects of a finished result, by C-STORE with storage commitment, or by STOW-RS.

The libraries for this come with the extra ``net`` and are imported only when something is sent; nothing else in
the package opens a connection. Files are sent as they are, byte by byte; an object that the other side has
already is stored once, as its UIDs follow from the inputs.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from lungvq.errors import InputError, NetworkError, UsageError
from lungvq.export.dicom import KINDS
from lungvq.export.dicom.names import name_of_class
from lungvq.export.folder import MANIFEST, verify
from lungvq.progress import SILENT, Progress

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.association import Association

__all__ = [
    "AUTHORIZATION",
    "Outcome",
    "Peer",
    "Sending",
    "Stored",
    "objects_of",
    "proposed_contexts",
    "send",
    "stow",
]

AUTHORIZATION = "LUNGVQ_STOW_AUTHORIZATION"
"""Environment variable with the value of the HTTP Authorization header for STOW-RS: not for command lines."""

OPTIONAL = frozenset(kind.sop_class for kind in KINDS.values() if kind.extra)
"""SOP classes that many archives do not know; left out with a note where they are refused."""

_COMMITMENT, _COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})  # stored, with something changed or not checked
_OUT_OF_RESOURCES = 0xA7  # the upper byte of such a status: trying later may help
_BATCH_BYTES = 32_000_000
_NOTHING_TAKEN = "it takes nothing of what was offered"
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Stored:
    """One DICOM file of a result."""

    path: Path
    sop_class: str
    instance: str
    syntax: str


@dataclass(frozen=True)
class Peer:
    """An application entity on the network.

    Examples
    --------
    >>> Peer.parse("ORTHANC@127.0.0.1:4242")
    Peer(title='ORTHANC', host='127.0.0.1', port=4242)
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """From ``AET@HOST:PORT``; an IPv6 address stands in brackets.

        Raises
        ------
        UsageError
        """
        found = re.fullmatch(r"([^@\\]{1,16})@(\[[0-9A-Fa-f:]+\]|[^@:\s]+):(\d{1,5})", text)
        if not found or not found[1].strip() or not 0 < int(found[3]) < 65536:
            raise UsageError(
                f"{text!r} is no destination; expected AET@HOST:PORT, such as ORTHANC@10.0.0.5:4242"
            )
        return cls(found[1].strip(), found[2].strip("[]"), int(found[3]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Sending:
    """How to send.

    Parameters
    ----------
    title : str
        Our application entity title.
    commit : bool
        Ask for storage commitment.
    listen : int
        Port on which the peer's answer to that is awaited.
    timeout : float
        Seconds without an answer after which a try has failed; also how long commitment is awaited.
    attempts : int
        Tries in all, with growing pauses between them.
    pause : float
        Seconds before the second try; each later one waits twice as long.
    """

    title: str = "LUNGVQ"
    commit: bool = True
    listen: int = 11113
    timeout: float = 30.0
    attempts: int = 3
    pause: float = 2.0


@dataclass(frozen=True)
class Outcome:
    """What became of the objects.

    Parameters
    ----------
    stored : int
        Objects that the other side has.
    committed : int or None
        Those it has promised to keep; None where it was not asked or does not offer that.
    notes : tuple of str
        What was left out or changed, one sentence each.
    """

    stored: int
    committed: int | None = None
    notes: tuple[str, ...] = ()


def objects_of(folder: Path) -> list[Stored]:
    """The DICOM files of a finished result, which must be as they were written.

    Raises
    ------
    InputError
        If there is no result, none of it is DICOM, or files were changed.
    """
    problems = verify(folder)
    if problems:
        raise InputError(f"{folder} is not as it was written, so it is not sent: {'; '.join(problems[:3])}")
    files = sorted((folder / "dicom").rglob("*.dcm"))
    if not files:
        raise InputError(
            f"{folder / MANIFEST} lists no DICOM objects; run again with --dicom --force, or into a new folder"
        )
    found = []
    for file in files:
        meta = pydicom.filereader.read_file_meta_info(file)
        names = (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID)
        found.append(Stored(file, *map(str, names)))
    return found


# --- C-STORE ----------------------------------------------------------------------------------------------


def send(
    objects: Sequence[Stored], peer: Peer, options: Sending | None = None, *, progress: Progress = SILENT
) -> Outcome:
    """Send by C-STORE, then ask for storage commitment.

    Raises
    ------
    NetworkError
        If after all tries something could not be stored, or was not committed.
    UsageError
        If the extra ``net`` is not installed.
    """
    options = options or Sending()
    _require("pynetdicom")
    transfer = _Transfer(peer, options, list(objects), progress)
    progress.stage(f"sending {len(objects)} objects to {peer}")
    for pause in _pauses(options):
        time.sleep(pause)
        transfer.store()
        if not transfer.left:
            break
    if failed := len(transfer.left) + len(transfer.refused):
        raise NetworkError(
            f"{failed} of {len(objects)} objects could not be stored by {peer}: {transfer.trouble};"
            " sending again stores nothing twice"
        )
    committed = None
    if options.commit and transfer.stored:
        progress.stage("waiting for storage commitment")
        committed = transfer.commit()
    return Outcome(len(transfer.stored), committed, tuple(transfer.notes))


def _pauses(options: Sending) -> Iterator[float]:
    """Seconds to wait before each try."""
    yield 0.0
    for n in range(options.attempts - 1):
        yield min(_LONGEST_PAUSE_S, options.pause * 2**n)


@dataclass
class _Transfer:
    """One delivery: what is left to try, what is refused for good, what is stored, and what was noticed."""

    peer: Peer
    options: Sending
    left: list[Stored]
    progress: Progress
    refused: list[Stored] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trouble: str = ""

    def entity(self) -> AE:
        """Our side, with its time-outs."""
        from pynetdicom import AE

        entity = AE(ae_title=self.options.title)
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = self.options.timeout
        entity.network_timeout = 2 * self.options.timeout
        return entity

    def connect(self, entity: AE, **more: Any) -> Association | None:
        """An association, or None with the reason in `trouble`."""
        association = entity.associate(self.peer.host, self.peer.port, ae_title=self.peer.title, **more)
        if association.is_established:
            return association
        answer = association.acceptor.primitive
        if association.rejected_contexts and not association.is_rejected:
            self.trouble = _NOTHING_TAKEN
        elif association.is_rejected and answer is not None:
            self.trouble = f"it refuses the association ({answer.reason_str.lower()})"
        else:
            self.trouble = "it does not answer"
        return None

    def store(self) -> None:
        """Try once to store what is left, over one association."""
        from pynetdicom import _config

        _config.STORE_SEND_CHUNKED_DATASET = True  # the bytes of the file, unread
        entity = self.entity()
        for sop_class, syntaxes in proposed_contexts(self.left):
            entity.add_requested_context(sop_class, syntaxes)
        association = self.connect(entity)
        if association is None:
            if self.trouble == _NOTHING_TAKEN:
                left, self.left = self.left, []
                for item in left:
                    self._not_taken(item)
            return
        total, waiting = len(self.left) + len(self.stored), self.left
        self.left = []
        try:
            for n, item in enumerate(waiting):
                if not association.is_established:
                    self.trouble = "it closed the association"
                    self.left += waiting[n:]
                    break
                self._store_one(association, item)
                self.progress.fraction(len(self.stored) / total)
        finally:
            association.release() if association.is_established else association.abort()

    def _store_one(self, association: Association, item: Stored) -> None:
        accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in association.accepted_contexts
        }
        known = [syntax for sop_class, syntax in accepted if sop_class == item.sop_class]
        if not known:
            self._not_taken(item)
            return
        data: Path | Dataset = item.path
        if item.syntax not in known:
            data = pydicom.dcmread(item.path)
            if data.file_meta.TransferSyntaxUID.is_compressed:
                data.decompress(generate_instance_uid=False)
        try:
            answer = association.send_c_store(data)
        except (ValueError, RuntimeError) as error:
            self.trouble = str(error)
            self.left.append(item)
            return
        status = answer.get("Status")
        if status == 0 or status in _WARNINGS:
            self.stored.append(item)
        else:
            code = "no answer" if status is None else f"status 0x{status:04X}"
            told = str(answer.get("ErrorComment") or "")
            self.trouble = f"{item.path.name}: {code}{f' ({told})' if told else ''}"
            later = status is None or status >> 8 == _OUT_OF_RESOURCES
            (self.left if later else self.refused).append(item)

    def _not_taken(self, item: Stored) -> None:
        """The peer does not know this kind of object."""
        name = name_of_class(item.sop_class)
        if item.sop_class in OPTIONAL:
            self.notes.append(f"{item.path.name} was left out: {self.peer} does not take {name}")
        else:
            self.trouble = f"it does not take {name}"
            self.refused.append(item)

    # --- storage commitment -------------------------------------------------------------------------------

    def commit(self) -> int | None:
        """Ask the peer to promise to keep what it stored.

        Returns
        -------
        int or None
            Number of objects it promised to keep; None where it does not offer that.
        """
        from pynetdicom import evt

        transaction, answered = generate_uid(), threading.Event()
        report: dict[str, set[str]] = {}

        def told(event: Any) -> tuple[int, None]:
            answer = event.event_information
            if answer.get("TransactionUID") == transaction:
                report["kept"] = _instances(answer.get("ReferencedSOPSequence"))
                report["refused"] = _instances(answer.get("FailedSOPSequence"))
                answered.set()
            return 0x0000, None

        handlers = [(evt.EVT_N_EVENT_REPORT, told)]
        with self._listening(handlers):
            entity = self.entity()
            entity.add_requested_context(_COMMITMENT)
            association = self.connect(entity, evt_handlers=handlers)
            if association is None and self.trouble != _NOTHING_TAKEN:
                raise NetworkError(
                    f"{self.peer} stored {len(self.stored)} objects and cannot be asked to commit: {self.trouble}"
                )
            if association is None:
                self.notes.append(
                    f"{self.peer} does not offer storage commitment; what it stores is not promised"
                )
                return None
            try:
                request = Dataset()
                request.TransactionUID = transaction
                request.ReferencedSOPSequence = [_reference(item) for item in self.stored]
                answer, _ = association.send_n_action(request, 1, _COMMITMENT, _COMMITMENT_INSTANCE)
                if answer.get("Status") != 0x0000:
                    raise NetworkError(
                        f"{self.peer} stored the objects and refuses to be asked for commitment"
                    )
                done = answered.wait(self.options.timeout)
            finally:
                if association.is_established:
                    association.release()
        if not done:
            raise NetworkError(
                f"{self.peer} stored {len(self.stored)} objects and did not commit them within"
                f" {self.options.timeout:g} s; does it know {self.options.title} at port {self.options.listen} of"
                " this machine? --no-commit sends without asking"
            )
        missing = {item.instance for item in self.stored} - report["kept"]
        if missing:
            raise NetworkError(
                f"{self.peer} did not commit {len(missing)} of {len(self.stored)} objects; send again"
            )
        return len(self.stored)

    def _listening(self, handlers: list[Any]) -> Any:
        """A server for the peer's report, on the one address by which we reach it, for the peer alone."""
        entity = self.entity()
        entity.require_called_aet = True
        entity.require_calling_aet = [self.peer.title]
        entity.maximum_associations = 2
        entity.add_supported_context(_COMMITMENT, scu_role=True, scp_role=True)
        address = (_own_address(self.peer), self.options.listen)
        try:
            server = entity.start_server(address, block=False, evt_handlers=handlers)
        except OSError as error:
            raise NetworkError(
                f"cannot listen on port {self.options.listen} for the commitment ({error.strerror}); choose another"
                " with --listen, or send with --no-commit"
            ) from None
        return _Closing(server)


@dataclass
class _Closing:
    server: Any

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()


def proposed_contexts(objects: Iterable[Stored]) -> list[tuple[str, list[str]]]:
    """What to propose: for each SOP class its files' own transfer syntaxes, and uncompressed ones."""
    proposed: dict[tuple[str, tuple[str, ...]], None] = {}
    for item in objects:
        proposed[item.sop_class, (item.syntax,)] = None
    for item in objects:
        proposed[item.sop_class, (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))] = None
    return [(sop_class, list(syntaxes)) for sop_class, syntaxes in proposed]


def _reference(item: Stored) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = item.sop_class, item.instance
    return reference


def _instances(sequence: Iterable[Dataset] | None) -> set[str]:
    return {str(item.ReferencedSOPInstanceUID) for item in sequence or ()}


def _own_address(peer: Peer) -> str:
    """Our address on the way to the peer; nothing is sent."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise NetworkError(f"{peer} cannot be reached ({error.strerror or error})") from None


# --- STOW-RS ----------------------------------------------------------------------------------------------


def stow(
    objects: Sequence[Stored], url: str, options: Sending | None = None, *, progress: Progress = SILENT
) -> Outcome:
    """Send by DICOMweb STOW-RS, some 32 MB at a time.

    Raises
    ------
    NetworkError
        If after all tries something could not be stored.
    UsageError
        If the URL cannot be one, or the extra ``net`` is not installed.
    """
    options = options or Sending()
    if not re.fullmatch(r"https?://[^\s@?#]+", url):
        raise UsageError(
            f"{url!r} is no DICOMweb address; expected http(s)://HOST[:PORT]/PATH, and the login, if there is one, in"
            f" {AUTHORIZATION}"
        )
    _require("dicomweb_client")
    progress.stage(f"sending {len(objects)} objects to {url}")
    post, stored, notes = _poster(url, options), 0, []
    for batch in _batches(objects):
        left, trouble = list(batch), ""
        for pause in _pauses(options):
            time.sleep(pause)
            left, trouble, again = post(left)
            if not left or not again:
                break
        optional = [item for item in left if item.sop_class in OPTIONAL]
        notes += [f"{item.path.name} was left out: {trouble}" for item in optional]
        if len(optional) < len(left):
            raise NetworkError(
                f"{len(left)} of {len(batch)} objects could not be stored at {url}, {stored} were before: {trouble};"
                " sending again stores nothing twice"
            )
        stored += len(batch) - len(left)
        progress.fraction(stored / len(objects))
    return Outcome(stored, None, tuple(notes))


def _batches(objects: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Parts of at most about 32 MB."""
    batch: list[Stored] = []
    size = 0
    for item in objects:
        bytes_ = item.path.stat().st_size
        if batch and size + bytes_ > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += bytes_
    if batch:
        yield batch


def _poster(url: str, options: Sending) -> Callable[[list[Stored]], tuple[list[Stored], str, bool]]:
    """A function that posts objects and returns those not stored, why, and whether trying again may help."""
    import requests
    from dicomweb_client.web import DICOMwebClient

    answers: list[Any] = []
    headers = {"Accept": "application/dicom+json"}
    if os.environ.get(AUTHORIZATION):
        headers["Authorization"] = os.environ[AUTHORIZATION]
    client = DICOMwebClient(
        url,
        headers=headers,
        timeout=options.timeout,
        callback=lambda response, *_, **__: answers.append(response),
    )
    client.set_http_retry_params(retry=False)

    def post(batch: list[Stored]) -> tuple[list[Stored], str, bool]:
        answers.clear()
        try:
            with warnings.catch_warnings(action="ignore"):
                told = client.store_instances([pydicom.dcmread(item.path) for item in batch])
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            return batch, f"the server answers {code}", code in (408, 429) or code >= 500
        except (requests.RequestException, OSError) as error:
            return batch, f"no answer ({type(error).__name__})", True
        except Exception as error:  # an answer that cannot be parsed says nothing about what was stored
            return batch, f"an answer that cannot be read ({type(error).__name__})", True
        failed = {str(i.ReferencedSOPInstanceUID): i for i in told.get("FailedSOPSequence") or ()}
        if failed or (answers and answers[-1].status_code != 200):
            kept = _instances(told.get("ReferencedSOPSequence"))
            left = [item for item in batch if item.instance in failed or item.instance not in kept]
        else:
            left = []
        reasons = {f"0x{int(i.get('FailureReason') or 0):04X}" for i in failed.values()}
        return (
            left,
            f"the server refuses it (failure reason {', '.join(sorted(reasons)) or 'not told'})",
            False,
        )

    return post


def _require(package: str) -> None:
    """Refuse with one sentence where the extra is missing.

    Raises
    ------
    UsageError
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise UsageError(f"sending needs {package}, which is not installed: pip install 'lungvq[net]'")
