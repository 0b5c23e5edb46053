//! Wheels that several tests use, and ways to damage them.

use kiln_wheel::testing::WheelBuilder;

use crate::environment::TestEnvironment;

/// A stack for one platform with one image on a base, wheels from `wheels/`, and these lines in the image's table.
pub(crate) fn stack(image: &str) -> String {
    format!(
        "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[index]\n\
         find-links = [\"wheels\"]\n\n[images.app]\nfrom = {{ oci = \"base\" }}\n{image}\n"
    )
}

/// A project whose one image has `greeting`, which needs `words`.
pub(crate) fn greeting() -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"greeting\"]"));
    environment.wheel(
        &pure("greeting", "1.0")
            .requires("words>=2")
            .file("greeting-1.0.dist-info/entry_points.txt", "[console_scripts]\ngreet = greeting:main\n"),
    );
    environment.wheel(&pure("words", "2.1"));
    environment.wheel(&pure("words", "1.0"));
    environment
}

/// A wheel for any platform with one module that says its version.
pub(crate) fn pure(name: &str, version: &str) -> WheelBuilder {
    WheelBuilder::new(name, version).file(&format!("{name}/__init__.py"), format!("version = \"{version}\"\n"))
}

/// A wheel with a large shared object, for one platform.
pub(crate) fn native(name: &str, version: &str, machine: &str, bytes: usize) -> WheelBuilder {
    WheelBuilder::new(name, version)
        .tag(&format!("cp311-cp311-manylinux_2_28_{machine}"))
        .file(&format!("{name}/__init__.py"), "")
        .file_with(&format!("{name}/{name}.so"), true, true, noise(bytes, version))
}

/// Bytes that hardly compress, the same in every run.
pub(crate) fn noise(length: usize, seed: &str) -> Vec<u8> {
    let mut state = seed
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3) | 1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&(state & 0x0f0f_ffff_ffff_0f0f).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
