"""Kinds of files: images that are read, images that are not, and what a system leaves behind."""

import re
from importlib.util import find_spec

# Width and height in the header of PPM; text may start with P1 too.
_SPACE = rb"\s+(?:#[^\n]*\n\s*)*"
_SIZE = _SPACE + rb"\d{1,6}" + _SPACE + rb"\d{1,6}"
# HEIC and AVIF share their first brand; the brands after it tell them apart.
_AVIF = rb".{4}ftyp(?:avi[fs]|m(?:if1|sf1|iaf).{4}(?:.{4}){0,6}?avi[fs])"
_HEIC = rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|m(?:if1|sf1|iaf).{4}(?:.{4}){0,6}?he[iv][cmsx])"

# Kind of image -> endings, pattern of the first bytes, plugin of Pillow. A new kind needs an entry.
IMAGE_KINDS = {
    "JPEG": (".jpg .jpeg .jpe .jfif .mpo", rb"\xff\xd8\xff", "Jpeg"),
    "PNG": (".png .apng", rb"\x89PNG\r\n\x1a\n", "Png"),
    # Many texts start with the letters BM, so the size of the second header is checked too.
    "BMP": (".bmp .dib", rb"BM.{12}[\x0c(48@l|]\0\0\0", "Bmp"),
    "GIF": (".gif", rb"GIF8[79]a", "Gif"),
    "WebP": (".webp", rb"RIFF.{4}WEBPVP8[ LX]", "WebP"),
    # Canon's camera raw files are TIFF with a mark.
    "TIFF": (".tif .tiff", rb"II[*+]\0(?!.{4}CR)|MM\0[*+]", "Tiff"),
    "PPM": (
        ".ppm .pgm .pbm .pnm",
        rb"P(?:1%b%b[01]|4%b\s|[2356]%b%b\d{1,5}\s)" % (_SIZE, _SPACE, _SIZE, _SIZE, _SPACE),
        "Ppm",
    ),
    "AVIF": (".avif .avifs", _AVIF, "Avif"),
}
# Images that are not read: kind -> endings, pattern of the first bytes (none: by the ending alone).
UNREAD_KINDS = {
    "camera raw": (
        ".3fr .arw .bay .cr2 .cr3 .crw .cs1 .dcr .dcs .dng .eip .erf .fff .gpr .iiq .k25 .kdc .mdc "
        ".mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f",
        rb"FUJIFILMCCD-RAW|II\x55\0|IIR[OS]|MMOR|\0MRM|FOVb|II\x1a\0\0\0HEAPCCDR|II\*\0.{4}CR|"
        rb".{4}ftypcrx ",
    ),
    "JPEG XL": (".jxl", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    "JPEG 2000": (
        ".jp2 .j2k .j2c .jpc .jpf .jpx .jpm .jph",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    ),
    "JPEG XR": (".jxr .wdp .hdp", rb"II\xbc"),
    "DICOM": (".dcm .dicom", rb".{128}DICM"),
    "NIfTI": (".nii .nii.gz", rb".{344}n[+i]1\0"),
    "SVG": (
        ".svg .svgz",
        rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:svg|!DOCTYPE svg)",
    ),
    "PostScript": (".eps .ps", rb"%!PS|\xc5\xd0\xd3\xc6"),
    "Photoshop": (".psd .psb", rb"8BPS\0[\1\2]"),
    "OpenEXR": (".exr", rb"\x76\x2f\x31\x01"),
    "Radiance HDR": (".hdr .rgbe", rb"#\?RADIANCE|#\?RGBE"),
    "Targa": (".tga", None),
    "icon": (".ico .cur .icns", rb"\0\0[\1\2]\0.\0.{4}[\0\1]\0|icns"),
    "DirectDraw surface": (".dds", rb"DDS \x7c"),
    "PCX": (".pcx", rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]"),
    "SGI": (".sgi", rb"\x01\xda[\0\x01][\x01\x02]"),
    "Sun raster": (".ras", rb"\x59\xa6\x6a\x95"),
    "GIMP": (".xcf", rb"gimp xcf "),
    "FITS": (".fits .fit .fts", rb"SIMPLE  =  "),
    "QOI": (".qoi", rb"qoif"),
    "BPG": (".bpg", rb"BPG\xfb"),
    "FLIF": (".flif", rb"FLIF"),
    "MNG": (".mng .jng", rb"[\x8a\x8b][MJ]NG\r\n\x1a\n"),
    "DjVu": (".djvu .djv", rb"AT&TFORM"),
    "JBIG2": (".jb2 .jbig2", rb"\x97JB2"),
    "float map": (".pfm", rb"P[Ff]%b" % _SIZE),
    "PAM": (".pam", rb"P7\s+(?:#|WIDTH|HEIGHT|DEPTH)"),
    "microscope": (".czi .nd2 .lif .oib .mrxs .vsi .ims", rb"ZISRAWFILE"),
}
_HEIC_ENDINGS = ".heic .heif .hif .heics .heifs"
# The extra ``heic`` reads it.
if find_spec("pi_heif"):
    IMAGE_KINDS["HEIC"] = (_HEIC_ENDINGS, _HEIC, "Heif")
else:
    UNREAD_KINDS["HEIC"] = (_HEIC_ENDINGS, _HEIC)
IMAGE_ENDINGS = tuple(ending for kind in IMAGE_KINDS.values() for ending in kind[0].split())
# What lies in the place of an image after a download or a clone that went wrong.
_NO_IMAGES = {
    "is a Git LFS pointer; run git lfs pull": rb"version https://git-lfs\.github\.com/",
    "is an HTML page": rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype )?(?:html|head)\b",
    "is a zip file": rb"PK\x03\x04",
    "is a gzip file": rb"\x1f\x8b\x08",
    "is a PDF file": rb"%PDF-",
    "is a video": rb".{4}ftyp(?:isom|iso[2-9]|mp4|avc1|qt  |M4V|3g[p2])|\x1aE\xdf\xa3|RIFF.{4}AVI ",
}
_TEXT = re.compile(rb"[\t\n\f\r -~\x80-\xff]*")
_UNREAD_ENDINGS = {ending: kind for kind, row in UNREAD_KINDS.items() for ending in row[0].split()}

# Files and folders that systems, network disks and tools leave behind; they cause no warning.
_SYSTEM_NAMES = {
    *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("lost+found", "found.000"),  # disks that were checked
    *("@eadir", "@tmp", "@sharebin", "@syno", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@__thumb", "@recently-snapshot", "@transcode"),  # QNAP
    *("__pycache__", "picasa.ini", "pspbrwse.jbf", "zbthumbnail.info", "folder.jpg:encryptable"),
}


def image_kind(head: bytes) -> str | None:
    """Return the kind in ``IMAGE_KINDS`` of a file that starts with ``head``, 32 bytes or more."""
    kinds = IMAGE_KINDS.items()
    return next((kind for kind, row in kinds if re.match(row[1], head, re.DOTALL)), None)


def what_it_is(content: bytes) -> str:
    """Say of a file that is no image of a kind that is read what it is."""
    if not content:
        return "is empty"
    for said, pattern in _NO_IMAGES.items():
        if re.match(pattern, content[:1024], re.DOTALL | re.IGNORECASE):
            return said
    if (kind := unread_kind("", content[:1024])) is not None:
        remedy = '; pip install "headstart[heic]"' if kind == "HEIC" else ""
        return f"is an image of the kind {kind}, which is not read{remedy}"
    if _TEXT.fullmatch(content[:1024]):
        return "is not an image but text"
    return f"is not an image of a known kind ({', '.join(IMAGE_KINDS)})"


def is_system_file(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by an operating system."""
    # In small letters these may be classes.
    windows = name in ("RECYCLER", "RECYCLED")
    return windows or name.startswith(".") or name.lower() in _SYSTEM_NAMES


def unread_kind(name: str, head: bytes = b"") -> str | None:
    """Return the kind in ``UNREAD_KINDS`` of a file, by its ending or its first bytes."""
    lowered = name.lower()
    if lowered.endswith(tuple(_UNREAD_ENDINGS)):
        return next(kind for end, kind in _UNREAD_ENDINGS.items() if lowered.endswith(end))
    kinds = UNREAD_KINDS.items() if head else ()
    return next((k for k, row in kinds if row[1] and re.match(row[1], head, re.DOTALL)), None)
