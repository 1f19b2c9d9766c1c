"""Maps of lung ventilation and perfusion from two breath-hold chest CTs. Research use only."""

__version__ = "0.1.0"
