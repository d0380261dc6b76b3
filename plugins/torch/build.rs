//! Compiles the C++ shim and lets every program of this package find libtorch without LD_LIBRARY_PATH.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        fail("LIBTORCH is not set; .cargo/config.toml sets it when cargo runs inside the project");
    };
    if !libtorch.join("include/ATen/ATen.h").exists() {
        fail(&format!(
            "no libtorch in {}; run `make setup` first",
            libtorch.display()
        ));
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .opt_level(2)
        .debug(false)
        .files(shims())
        .compile("volvelle_shim");
    // Named again after the static shim, so that its symbols resolve.
    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    // A RUNPATH: LD_LIBRARY_PATH still wins, which is how the same program uses a CUDA libtorch.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libtorch.join("lib").display());
    // Where scripts/setup-libtorch.sh keeps the CUDA half of an installed PyTorch, for the dlopen of lm/device.rs.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libtorch.join("cuda").display());
}

/// Every C++ file of `shim/`.
fn shims() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("shim").unwrap_or_else(|error| fail(&format!("shim: {error}")));
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    files.sort();
    files
}

fn fail(message: &str) -> ! {
    println!("cargo:warning={message}");
    eprintln!("error: {message}");
    std::process::exit(1);
}
