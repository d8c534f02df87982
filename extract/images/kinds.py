"""Kinds of files: images that are read, images that are not, and what a system leaves behind."""

import re

from extract.images.item import read_part

# Kind of image -> endings, pattern of the first bytes, plugin of Pillow. A new kind needs an entry.
IMAGE_KINDS = {
    "JPEG": (".jpg .jpeg .jpe .jfif .mpo", rb"\xff\xd8\xff", "Jpeg"),
    "PNG": (".png .apng", rb"\x89PNG\r\n\x1a\n", "Png"),
    # Many texts start with the letters BM, so the size of the second header is checked too.
    "BMP": (".bmp .dib", rb"BM.{12}[\x0c(48@l|]\0\0\0", "Bmp"),
    "GIF": (".gif", rb"GIF8[79]a", "Gif"),
    "WebP": (".webp", rb"RIFF.{4}WEBPVP8[ LX]", "WebP"),
    "TIFF": (".tif .tiff", rb"II[*+]\0|MM\0[*+]", "Tiff"),
}
IMAGE_ENDINGS = tuple(ending for kind in IMAGE_KINDS.values() for ending in kind[0].split())

# Images that are not read: kind -> endings, pattern of the first bytes (none: by the ending alone).
UNREAD_KINDS = {
    "camera raw": (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw "
        ".orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
        rb"FUJIFILMCCD-RAW|II\x55\0|IIR[OS]|\0MRM|FOVb|.{4}ftypcrx ",
    ),
    "HEIC": (".heic .heif .hif", rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"),
    "JPEG XL": (".jxl", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    "JPEG 2000": (".jp2 .j2k .j2c .jpf .jpx", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "JPEG XR": (".jxr .wdp .hdp", rb"II\xbc"),
    "DICOM": (".dcm .dicom", None),
    "NIfTI": (".nii .nii.gz", None),
    "SVG": (".svg .svgz", rb"<svg|<\?xml [^>]*>\s*<svg"),
    "Photoshop": (".psd .psb", rb"8BPS\0[\1\2]"),
    "OpenEXR": (".exr", rb"\x76\x2f\x31\x01"),
    "Radiance HDR": (".hdr .rgbe", rb"#\?RADIANCE|#\?RGBE"),
    "Targa": (".tga", None),
    "icon": (".ico .cur .icns", rb"\0\0[\1\2]\0.\0.{4}[\0\1]\0|icns"),
    "DirectDraw surface": (".dds", rb"DDS \x7c"),
    "PCX": (".pcx", None),
    "GIMP": (".xcf", rb"gimp xcf "),
    "FITS": (".fits .fit .fts", rb"SIMPLE  =  "),
    "QOI": (".qoi", rb"qoif"),
    "JBIG2": (".jb2 .jbig2", rb"\x97JB2"),
    "float map": (".pfm", rb"P[Ff]\s\d"),
}
_UNREAD_ENDINGS = {ending: kind for kind, row in UNREAD_KINDS.items() for ending in row[0].split()}

# Files and folders that systems, network disks and tools leave behind; they cause no warning.
_SYSTEM_NAMES = {
    *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("lost+found", "found.000"),  # disks that were checked
    *("@eadir", "@tmp", "@sharebin", "@syno", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot", "@transcode"),  # QNAP
    *("__pycache__", "picasa.ini", "pspbrwse.jbf", "zbthumbnail.info", "folder.jpg:encryptable"),
}


def image_kind(head: bytes) -> str | None:
    """Return the kind in ``IMAGE_KINDS`` of a file that starts with ``head``, 32 bytes or more."""
    kinds = IMAGE_KINDS.items()
    return next((kind for kind, row in kinds if re.match(row[1], head, re.DOTALL)), None)


def is_image(path: str) -> bool:
    """Whether a file is an image by its ending, or else by its first bytes."""
    return path.lower().endswith(IMAGE_ENDINGS) or image_kind(read_part(path, 32, 0)) is not None


def is_system_file(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def unread_kind(name: str, head: bytes = b"") -> str | None:
    """Return the kind in ``UNREAD_KINDS`` of a file, by its ending or its first bytes."""
    for ending, kind in _UNREAD_ENDINGS.items():
        if name.lower().endswith(ending):
            return kind
    kinds = UNREAD_KINDS.items()
    return next((k for k, row in kinds if row[1] and re.match(row[1], head, re.DOTALL)), None)
