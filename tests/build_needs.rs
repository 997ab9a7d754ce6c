//! What the Makefile takes for the library that the build needs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

fn touch(root: &Path, file: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, "").expect("written");
}

/// Whether libclang is found on a system below `root`, on which there are no programs but a shell.
fn is_found(root: &Path, variables: &[(&str, &Path)]) -> bool {
    let mut look = Command::new("/bin/sh");
    look.arg(".ci/has-libclang").arg(root).env_clear().env("PATH", root.join("bin"));
    look.envs(variables.iter().copied()).stdout(Stdio::null());
    look.status().expect("run").success()
}

#[cfg(target_os = "linux")]
#[test]
fn only_what_bindgen_loads_is_taken_for_libclang() {
    let directory = tempfile::tempdir().expect("directory");
    let root = directory.path();
    assert!(!is_found(root, &[]), "nothing is there");
    touch(root, "usr/lib/x86_64-linux-gnu/libclang-cpp.so.14");
    touch(root, "usr/lib/llvm-14/lib/libclang-cpp.so.14");
    assert!(!is_found(root, &[]), "another library of that name");
    touch(root, "usr/lib/x86_64-linux-gnu/libclang-14.so.1");
    assert!(!is_found(root, &[]), "its headers are missing");
    touch(root, "usr/lib/llvm-14/lib/clang/14.0.6/include/stddef.h");
    assert!(is_found(root, &[]));
    fs::remove_file(root.join("usr/lib/x86_64-linux-gnu/libclang-14.so.1")).expect("removed");
    touch(root, "opt/clang/libclang.so");
    assert!(!is_found(root, &[]), "nobody looks there");
    let (elsewhere, file) = (root.join("opt/clang"), root.join("opt/clang/libclang.so"));
    for (variable, path) in [("LIBCLANG_PATH", &elsewhere), ("LIBCLANG_PATH", &file), ("LD_LIBRARY_PATH", &elsewhere)] {
        assert!(is_found(root, &[(variable, path)]), "{variable}");
    }
    touch(root, "usr/lib/x86_64-linux-gnu/libclang-14.so.1");
    assert!(!is_found(root, &[("LIBCLANG_PATH", &root.join("opt"))]), "who names a place means it");
}
