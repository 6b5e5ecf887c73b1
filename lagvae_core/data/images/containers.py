"""Reading the arrays of .npz and torch files, and commands that convert files of other formats.

The content decides about the format of a file, not its name.
"""

from __future__ import annotations

import pickle
import shlex
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from lagvae_core.data.raw import SPLITS, RawArrays, check_names, read_npz

__all__ = ["read_container"]

_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)
_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)[:-1]
"""Start of a file that torch.save wrote before version 1.6, or writes with _use_new_zipfile_serialization=False."""


def read_container(raw: RawArrays) -> None:
    """Read the arrays of a file, or add an issue that says what is wrong with it."""
    path = raw.path
    with path.open("rb") as file:
        start = file.read(1024)
    names = _zip_names(path)
    is_torch = any(name.endswith("/data.pkl") for name in names) or start.startswith(_OLD_TORCH)
    if is_torch or (path.suffix.lower() in (".pt", ".pth") and not names):
        _read_torch(raw)
    elif any(name.endswith(".npy") for name in names):
        read_npz(raw)
    elif start.startswith(b"PK") and not names:
        raw.add(None, "must be a complete file", "Copy or download it again. Its end is missing.")
    else:
        kind, hint = _conversion(path, start, bool(names))
        raw.add(None, f"must be an .npz file, a torch file or a folder of pictures, not {kind}", hint)


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _READ_ERRORS:
        return []


# --- torch files ----------------------------------------------------------------------------------------------------


def _read_torch(raw: RawArrays) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about old formats; errors are reported below
            content: Any = torch.load(raw.path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raw.add(None, "must contain only tensors", "Other objects are never read. Save the tensors alone.")
        return
    except _READ_ERRORS as error:
        raw.add(None, f"must be a complete torch file ({error})", "Save the tensors again with torch.save.")
        return
    if isinstance(content, list | tuple) and len(content) == len(SPLITS):
        content = dict(zip(SPLITS, content, strict=True))
    if not isinstance(content, dict):
        hint = f"The content has the type {type(content).__name__}. Save [train, valid, test] instead."
        raw.add(None, "must contain three tensors, in a list or a dictionary", hint)
        return
    check_names(content, raw)
    for name in (name for name in content if str(name).removesuffix("_labels") in SPLITS):
        value = content[name]
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype != torch.bfloat16:
            raw.arrays[name] = value.detach().resolve_neg().numpy()
        else:
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            hint = f"The type is {kind}. Convert it, for example with tensor.to_dense().float()."
            raw.add(name, "must be a dense tensor that numpy can represent", hint)


# --- files of other formats -----------------------------------------------------------------------------------------

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_UNPACK = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_SAVE = "numpy.savez_compressed(sys.argv[2], train={train}, valid={valid}, test={test})"
_DIVIDE = "n = max(1, len(x) // 10); " + _SAVE.format(train="x[2 * n:]", valid="x[:n]", test="x[n:2 * n]")


def _conversion(path: Path, start: bytes, is_zip: bool) -> tuple[str, str]:
    """Return what a file of another format is, and how to convert it: a sentence that ends with a command."""
    if start.startswith(_PICTURES):
        hint = "Put the pictures into folders train, valid and test, and set data.path to the folder above them."
        return "a single picture", hint
    folder = shlex.quote(str(path.with_name(path.name.split(".")[0] or "images")))
    if is_zip:
        return "a .zip file of other files", f"Unpack it: python -m zipfile -e {shlex.quote(str(path))} {folder}"
    if tarfile.is_tarfile(path):
        return "a .tar file", f"Unpack it: mkdir -p {folder} && tar -xf {shlex.quote(str(path))} -C {folder}"
    for magic, program in _UNPACK.items():
        if start.startswith(magic):
            inner = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else _beside(path, "unpacked")
            command = f"{program} -dc {shlex.quote(str(path))} > {shlex.quote(str(inner))}"
            return f"a file compressed with {program}", f"Unpack it: {command}"
    if start.startswith(b"\x93NUMPY"):
        return "a .npy file with a single array", _python(path, "", f"x = numpy.load(sys.argv[1]); {_DIVIDE}")
    if start[:3] == b"\0\0\x08" and start[3] == 3:
        shape = ", ".join(str(int.from_bytes(start[at : at + 4], "big")) for at in (4, 8, 12))
        code = f"x = numpy.fromfile(sys.argv[1], numpy.uint8)[16:].reshape({shape}); {_DIVIDE}"
        return "an IDX file", _python(path, "", code)
    if start.startswith(b"\x89HDF") or start[512:516] == b"\x89HDF":
        names = {split: f"x['{split}'][:]" for split in SPLITS}
        code = f"x = h5py.File(sys.argv[1]); {_SAVE.format(**names)}"
        return "an HDF5 file", _python(path, "h5py", code)
    if start.startswith(b"MATLAB"):
        names = {split: f"x['{split}']" for split in SPLITS}
        code = f"x = scipy.io.loadmat(sys.argv[1]); {_SAVE.format(**names)}"
        return "a MATLAB file", _matlab_names(path) + _python(path, "scipy.io", code)
    if start.startswith(b"\x80"):
        names = {split: f"x['{split}']" for split in SPLITS}
        code = f"x = pickle.load(open(sys.argv[1], 'rb')); {_SAVE.format(**names)}"
        return "a pickle, which is never read", "Only if you trust it: " + _python(path, "pickle", code)
    hint = "Save the images with numpy.savez_compressed('images.npz', train=x, valid=y, test=z)."
    return "a file of another format", hint


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f"{path.stem}-{word}{path.suffix}")


def _python(path: Path, module: str, code: str) -> str:
    target = path.with_suffix(".npz") if path.suffix != ".npz" else _beside(path, "converted")
    imports = ", ".join(["sys", "numpy", *([module] if module else [])])
    install = f"pip install {module} && " if module == "h5py" else ""
    arguments = f"{shlex.quote(str(path))} {shlex.quote(str(target))}"
    return f'Convert it: {install}python -c "import {imports}; {code}" {arguments}'


def _matlab_names(path: Path) -> str:
    import scipy.io

    try:
        names = [name for name, _, _ in scipy.io.whosmat(str(path))]
    except Exception:  # scipy raises errors of many types for damaged files
        return ""
    return f"It contains {', '.join(names)}; adapt the names. "
