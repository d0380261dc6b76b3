#!/usr/bin/env python3
"""The file work of setup-libtorch.sh: finds, fetches, checks and unpacks the parts of a libtorch.

    libtorch_parts.py find-installed                     version TAB folder of this interpreter's PyTorch; exit 1: none
    libtorch_parts.py link TORCH_DIR OUT                 a libtorch folder of symbolic links to an installed PyTorch
    libtorch_parts.py pick-wheel DIR NAME VERSION SHA    path of a sound wheel in DIR; exit 1: none
    libtorch_parts.py unpack-wheels OUT WHEEL...
    libtorch_parts.py fetch URL_OR_PATH FILE
    libtorch_parts.py unpack-archive OUT ZIP

It decides nothing about which source is used or what a good libtorch is: the shell script does. Standard library only,
and PyTorch itself is never imported, because that takes seconds and may need a GPU driver.
"""
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import sys
import time
import urllib.parse
import urllib.request
import zipfile

# What is needed of the wheels, and where it goes. libgomp also under the name that -lgomp looks for.
WHEEL_LIBRARIES = {f"torch/lib/{n}": f"lib/{n}" for n in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")} | {
    f"nvidia/cu13/lib/{n}": f"lib/{n}" for n in ("libcudart.so.13", "libcupti.so.13")}
BLOCK = 1 << 20


def say(text):
    print(f"setup-libtorch: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(f"error: {text}")
    sys.exit(1)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def find_installed():
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(1)
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        sys.exit(1)
    print(version, list(spec.submodule_search_locations)[0], sep="\t")


def link(torch_dir, out):
    """Links the libraries without CUDA; the CUDA ones stay reachable through OUT/cuda.

    libtorch.so itself is left out: in a CUDA build it needs libtorch_cuda.so, and the linker must not follow it there.
    """
    torch_dir, out = pathlib.Path(torch_dir).resolve(), pathlib.Path(out)
    (out / "lib").mkdir(parents=True)
    for lib in sorted((torch_dir / "lib").glob("lib*.so*")):
        if lib.name.split(".")[0] in ("libtorch_cpu", "libc10") or lib.name.startswith(("libgomp", "libiomp", "libmkl")):
            (out / "lib" / lib.name).symlink_to(lib)
    # The profiler of a CUDA build needs these two; they load without a driver.
    for pattern in ("libcudart.so.*", "libcupti.so.*"):
        for lib in sorted((torch_dir.parent / "nvidia").glob(f"*/lib/{pattern}")):
            target = out / "lib" / lib.name
            if not target.exists():
                target.symlink_to(lib)
    add_gomp_link(out)
    (out / "include").symlink_to(torch_dir / "include")
    if (torch_dir / "lib/libtorch_cuda.so").exists():
        (out / "cuda").symlink_to(torch_dir / "lib")


def add_gomp_link(out):
    gomp = sorted((out / "lib").glob("libgomp*.so*"))
    if gomp and not (out / "lib/libgomp.so").exists():
        (out / "lib/libgomp.so").symlink_to(gomp[0].name)


def pick_wheel(folder, name, version, expected):
    for wheel in sorted(pathlib.Path(folder).glob(f"{name}-{version}-*.whl")):
        got = sha256(wheel)
        if got == expected:
            print(wheel)
            return
        say(f"{wheel} is broken or another build: {wheel.stat().st_size:,} bytes with SHA-256 {got}, expected {expected}; "
            "it is not used. Delete it and download it again")
    sys.exit(1)


def unpack_wheels(out, *wheels):
    out, got = pathlib.Path(out), set()
    for wheel in wheels:
        with opened_zip(wheel) as z:
            for info in z.infolist():
                if info.filename in WHEEL_LIBRARIES:
                    to = WHEEL_LIBRARIES[info.filename]
                    got.add(info.filename)
                elif info.filename.startswith("torch/include/") and not info.is_dir():
                    to = info.filename.removeprefix("torch/")
                else:
                    continue
                extract(z, info, out, to)
    if missing := sorted(set(WHEEL_LIBRARIES) - got):
        fail(f"not in the wheels: {', '.join(missing)}")
    add_gomp_link(out)
    write_sums(out)


def fetch(source, path):
    """Downloads with a line of progress; a connection that closes early is an error, not a shorter file."""
    if "://" not in source:
        source = pathlib.Path(source).resolve().as_uri()
    try:
        with urllib.request.urlopen(source, timeout=60) as response, open(path, "wb") as f:
            total = int(response.headers.get("Content-Length") or 0)
            done, shown = 0, time.monotonic()
            while block := response.read(BLOCK):
                f.write(block)
                done += len(block)
                every = 0.2 if sys.stderr.isatty() else 15
                if time.monotonic() - shown > every:
                    shown = time.monotonic()
                    print(f"setup-libtorch:   {done >> 20:,} of {total >> 20:,} MB", file=sys.stderr, flush=True,
                          end="\r" if sys.stderr.isatty() else "\n")
    except (OSError, ValueError) as e:
        fail(f"{urllib.parse.unquote(source)}: {e}")
    if total and done != total:
        fail(f"{source}: the download is broken: {done:,} of {total:,} bytes arrived")


def unpack_archive(out, archive):
    """Takes lib, include and build-version of the folder libtorch/ in the archive; reading checks every CRC."""
    out = pathlib.Path(out)
    with opened_zip(archive) as z:
        for info in z.infolist():
            name = info.filename.removeprefix("libtorch/")
            wanted = name == "build-version" or name.startswith("include/") or (
                name.startswith("lib/lib") and ".so" in name and name != "lib/libtorch.so")
            if wanted and not info.is_dir():
                extract(z, info, out, name)
    if not (out / "build-version").exists():
        fail(f"{archive} has no libtorch/build-version: not a libtorch archive")
    add_gomp_link(out)
    write_sums(out)


def opened_zip(path):
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as e:
        fail(f"{path} is broken ({e}): the download was cut short, or it is not the file it should be")


def extract(archive, info, out, to):
    target = out / to
    if not target.resolve().is_relative_to(out.resolve()):
        fail(f"{archive.filename} holds the unsafe name {info.filename}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(info) as source, open(target, "wb") as f:
            shutil.copyfileobj(source, f, BLOCK)
    except (zipfile.BadZipFile, EOFError) as e:
        fail(f"{archive.filename} is broken at {info.filename} ({e})")
    except OSError as e:
        fail(f"{target}: {e}")


def write_sums(out):
    """Checksums of the libraries, for `setup-libtorch.sh --check`."""
    libs = sorted(p for p in (out / "lib").iterdir() if p.is_file() and not p.is_symlink() and p.name != "libtorch.so")
    (out / "SHA256SUMS").write_text("".join(f"{sha256(p)}  lib/{p.name}\n" for p in libs), encoding="ascii")


COMMANDS = {"find-installed": find_installed, "link": link, "pick-wheel": pick_wheel, "unpack-wheels": unpack_wheels,
            "fetch": fetch, "unpack-archive": unpack_archive}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
