"""The settings of augmented views, as ``config`` has those of the trunk and of the run."""

from dataclasses import asdict, dataclass, fields

from extract.core.errors import SettingError
from extract.core.flags import Settings, check_fields, documented, flag


@documented
@dataclass(frozen=True)
class ViewSpec(Settings):
    """Augmented views of the training images; the defaults are the recipe of Keras' course notes.

    Without views every setting is None.

    Raises:
        SettingError: A value is out of range or has no effect.
    """

    views: int = flag(
        0, "keep N augmented views of each training image beside the plain one", low=1, shown="0"
    )
    seed: int | None = flag(
        None, "seed of everything random in the views", low=0, below=2**32, usual=0
    )
    rotation: float | None = flag(
        None, "largest turn either way, in degrees", low=0, high=180, metavar="DEGREES", usual=40.0
    )
    shift: float | None = flag(
        None, "largest shift either way, as a share of the side", low=0, high=1, usual=0.2
    )
    shear: float | None = flag(
        None, "largest slant either way, as a share", low=0, high=1, usual=0.2
    )
    zoom: float | None = flag(
        None, "width and height are each divided by 1 - X to 1 + X", low=0, high=0.9, usual=0.2
    )
    flip: bool | None = flag(None, "mirror one view in two, left to right", usual=True)

    def __post_init__(self) -> None:
        given = {k: v for k, v in asdict(self).items() if v is not None and k != "views"}
        check_fields(self)
        if not self.views and given:
            raise SettingError(f"{next(iter(given))}: has no effect without --views")
        if self.views:
            usual = {f.name: f.metadata["usual"] for f in fields(self) if "usual" in f.metadata}
            self._set(**(usual | given))
            if not any((self.rotation, self.shift, self.shear, self.zoom, self.flip)):
                effects = "rotation, shift, shear, zoom or flip"
                raise SettingError(f"views: have no effect without {effects}; give one of them")
