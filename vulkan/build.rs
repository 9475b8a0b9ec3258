//! With the feature `compile-shaders`, compiles the GLSL as part of the build, with glslc, instead of taking the compiled
//! shaders that are in the source tree.

use std::env;
use std::path::Path;
use std::process::{Command, exit};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_COMPILE_SHADERS").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=shaders");
    let out = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("spv");
    match Command::new("shaders/build.sh").arg(&out).status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("shaders/build.sh: {status}")),
        Err(e) => fail(&format!("shaders/build.sh: {e}")),
    }
}

fn fail(what: &str) {
    println!("cargo:error={what} (the feature compile-shaders needs glslc)");
    exit(1);
}
