//! Hashes of requirements files and of other tools' locks: a wheel that has none of them is never taken.

use insta::assert_snapshot;
use kiln_plan::digest::Digest;

use crate::environment::TestEnvironment;
use crate::requirements::{locked, project};
use crate::wheels::{pure, stack};

/// The sha256 of a wheel of the project.
fn sha256(environment: &TestEnvironment, file: &str) -> String {
    Digest::of(&fs_err::read(environment.path("wheels").join(file)).unwrap()).hex()
}

#[test]
fn a_wheel_is_taken_only_if_its_hash_is_given() {
    let environment = project("");
    let right = sha256(&environment, "alpha-1.0-py3-none-any.whl");
    let wrong = "0".repeat(64);
    environment.write(
        "requirements.txt",
        format!("alpha==1.0 \\\n    --hash=sha256:{wrong} \\\n    --hash=sha256:{right}\nbeta\n"),
    );
    environment.succeed("build");
    assert_eq!(locked(&environment), ["alpha==1.0", "beta==1.0"]);
    environment.write("requirements.txt", format!("beta\nalpha==1.0 \\\n    --hash=sha256:{wrong}\n"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: no wheel of alpha 1.0 has a hash that is given
     --> requirements.txt:2:1
      |
    2 | alpha==1.0 \
      | ^^^^^^^^^^
      |
    help: `alpha-1.0-py3-none-any.whl` has sha256:<digest>: find out which of the two is wrong; where the hashes belong to another version, pin it with `==`
    [exit status: 2]
    ");
    environment.write("requirements.txt", format!("alpha==1.0 --hash=sha256:{right}\n-c limits.txt\n"));
    environment.write("limits.txt", format!("alpha --hash=sha256:{wrong}\n"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: no wheel of alpha 1.0 has a hash that is given
     --> requirements.txt:1:1
      |
    1 | alpha==1.0 --hash=sha256:<digest>
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
     ::: limits.txt:1:1
      |
    1 | alpha --hash=sha256:<digest>
      | ------------------------------------------------------------------------------------ and here
      |
    help: `alpha-1.0-py3-none-any.whl` has sha256:<digest>: find out which of the two is wrong; where the hashes belong to another version, pin it with `==`
    [exit status: 2]
    ");
    environment.write("requirements.txt", format!("./wheels/alpha-1.0-py3-none-any.whl --hash=sha256:{wrong}\n"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: no wheel of alpha 1.0 has a hash that is given
     --> requirements.txt:1:1
      |
    1 | ./wheels/alpha-1.0-py3-none-any.whl --hash=sha256:<digest>
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: `alpha-1.0-py3-none-any.whl` has sha256:<digest>: find out which of the two is wrong; where the hashes belong to another version, pin it with `==`
    [exit status: 2]
    ");
    environment.write("requirements.txt", format!("./wheels/alpha-1.0-py3-none-any.whl#sha256={right}\n"));
    environment.succeed("build");
}

#[test]
fn hashes_for_another_platform_do_not_bind() {
    let environment = project("");
    let (right, wrong) = (sha256(&environment, "alpha-1.0-py3-none-any.whl"), "0".repeat(64));
    environment.write(
        "requirements.txt",
        format!(
            "alpha==1.0 ; sys_platform == 'linux' --hash=sha256:{right}\n\
             alpha==1.0 ; sys_platform == 'win32' --hash=sha256:{wrong}\n"
        ),
    );
    environment.succeed("build");
}

#[test]
fn where_hashes_are_required_every_package_needs_one() {
    let environment = project("");
    let (beta, gamma) =
        (sha256(&environment, "beta-1.0-py3-none-any.whl"), sha256(&environment, "gamma-1.0-py3-none-any.whl"));
    environment.write("requirements.txt", format!("--require-hashes\ngamma==1.0 --hash=sha256:{gamma}\n"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: hashes are required, and beta 1.0 has none
     --> requirements.txt:1:1
      |
    1 | --require-hashes
      | ^^^^^^^^^^^^^^^^
      |
    help: once its origin is checked, add the line `beta==1.0 --hash=sha256:<digest>`
    [exit status: 2]
    ");
    environment.write("requirements.txt", format!("--require-hashes\ngamma>=1.0 --hash=sha256:{gamma}\n"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: this requirement leaves its version open
     --> requirements.txt:2:1
      |
    1 | --require-hashes
      | ---------------- hashes are required here
    2 | gamma>=1.0 --hash=sha256:<digest>
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: pin it: `gamma==VERSION`
    [exit status: 2]
    ");
    environment.write("requirements.txt", "--require-hashes\nbeta==1.0\n");
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: hashes are required, and beta 1.0 has none
     --> requirements.txt:2:1
      |
    1 | --require-hashes
      | ---------------- required here
    2 | beta==1.0
      | ^^^^^^^^^
      |
    help: once its origin is checked, add the line `beta==1.0 --hash=sha256:<digest>`
    [exit status: 2]
    ");
    let text = format!("--require-hashes\ngamma==1.0 --hash=sha256:{gamma}\nbeta==1.0 --hash=sha256:{beta}\n");
    environment.write("requirements.txt", text);
    environment.succeed("build");
}

#[test]
fn hashes_of_locks_of_other_tools_bind() {
    let environment = project("");
    let text = environment.read("kiln.toml");
    let wrong = "0".repeat(64);
    environment.stack(&text.replace("requirements.txt", "pylock.toml"));
    environment.write(
        "pylock.toml",
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"alpha\"\nversion = \"1.0\"\n\
             wheels = [{{ path = \"wheels/alpha-1.0-py3-none-any.whl\", hashes = {{ sha256 = \"{wrong}\" }} }}]\n"
        ),
    );
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the wheel `<root>/project/wheels/alpha-1.0-py3-none-any.whl` is not the one that is locked: sha256:<digest> was expected, and it has sha256:<digest>

    hint: somebody replaced the file after it was locked: put the locked one back, or take the one that lies there, `kiln lock --upgrade alpha`; where a lock of another tool names it, write that anew first
    [exit status: 1]
    ");
    environment.stack(&text.replace("requirements.txt", "uv.lock"));
    let lock = |hash: &str| {
        let url = format!("file://{}", environment.path("wheels/alpha-1.0-py3-none-any.whl").display());
        format!(
            "version = 1\n[[package]]\nname = \"alpha\"\nversion = \"1.0\"\nwheels = [{{ url = \"{url}\", \
             hash = \"sha256:{hash}\" }}]\n[[package]]\nname = \"project\"\nversion = \"0\"\n"
        )
    };
    environment.write("pyproject.toml", "[project]\nname = \"project\"\nversion = \"0\"\n");
    environment.write("uv.lock", lock(&wrong));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the wheel `<root>/project/wheels/alpha-1.0-py3-none-any.whl` is not the one that is locked: sha256:<digest> was expected, and it has sha256:<digest>

    hint: somebody replaced the file after it was locked: put the locked one back, or take the one that lies there, `kiln lock --upgrade alpha`; where a lock of another tool names it, write that anew first
    [exit status: 1]
    ");
    environment.write("uv.lock", lock(&sha256(&environment, "alpha-1.0-py3-none-any.whl")));
    environment.succeed("build");
    assert_eq!(locked(&environment), ["alpha==1.0"]);
}

#[test]
fn hashes_bind_the_wheels_of_images_below() {
    let environment = project("");
    let (right, wrong) = (sha256(&environment, "alpha-1.0-py3-none-any.whl"), "0".repeat(64));
    let lower = stack("packages = [\"alpha==1.0\"]");
    environment.stack(&format!("{lower}\n[images.upper]\nfrom = \"app\"\nrequirements = \"requirements.txt\"\n"));
    environment.write("requirements.txt", format!("beta\nalpha==1.0 --hash=sha256:{right}\n"));
    environment.succeed("lock");
    environment.write("requirements.txt", format!("beta\nalpha==1.0 --hash=sha256:{wrong}\n"));
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: no wheel of alpha 1.0 has a hash that is given
     --> requirements.txt:2:1
      |
    2 | alpha==1.0 --hash=sha256:<digest>
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: `alpha-1.0-py3-none-any.whl` of `app` has sha256:<digest>: find out which of the two is wrong; where the hashes belong to another version, pin it with `==`
    [exit status: 2]
    ");
    let locked = format!(
        "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"alpha\"\nversion = \"1.0\"\n\
         wheels = [{{ name = \"alpha-1.0-py3-none-any.whl\", url = \"https://index.test/alpha-1.0-py3-none-any.whl\", \
         hashes = {{ sha256 = \"{wrong}\" }} }}]\n"
    );
    environment.write("pylock.toml", locked);
    environment.stack(&format!("{lower}\n[images.upper]\nfrom = \"app\"\nrequirements = \"pylock.toml\"\n"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: alpha 1.0 is another wheel in `app`, below: `alpha-1.0-py3-none-any.whl` with sha256:<digest>
      --> kiln.toml:17:16
       |
    17 | requirements = "pylock.toml"
       |                ^^^^^^^^^^^^^
       |
    help: `alpha-1.0-py3-none-any.whl` is demanded here: demand the same in both, or leave it out here
    [exit status: 2]
    "#);
}

#[test]
fn hashes_of_what_the_base_has_are_not_checked_and_that_is_told() {
    let environment = project("");
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    crate::bases::with_site_packages(&environment.path("base"), &[("alpha", "1.0"), ("beta", "1.0")]);
    environment.stack(&stack("requirements = \"requirements.txt\"\npython.environment = \"overlay\""));
    let wrong = "0".repeat(64);
    environment
        .write("requirements.txt", format!("alpha==1.0 --hash=sha256:{wrong}\nbeta==1.0 --hash=sha256:{wrong}\n"));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (0 packages)
    ------- stderr -------
    warning: the hashes of alpha and 1 more are not checked in `app`: the base has them, and not as wheels. `python.replace` installs them from wheels
    ");
}

#[test]
fn a_wheel_that_is_named_must_be_that_of_the_image_below() {
    let environment = project("");
    let wheel = |version: &str| pure("alpha", version).file("alpha/other.py", "x");
    for version in ["1.0", "2.0"] {
        let built = wheel(version);
        fs_err::create_dir_all(environment.path("dist")).unwrap();
        fs_err::write(environment.path("dist").join(built.file_name()), built.finish()).unwrap();
    }
    let tiers = |lower: &str, upper: &str| {
        let lower = stack(&format!("packages = [\"{lower}\"]"));
        environment.stack(&format!("{lower}\n[images.upper]\nfrom = \"app\"\npackages = [\"{upper}\", \"beta\"]\n"));
    };
    tiers("alpha==1.0", "./dist/alpha-1.0-py3-none-any.whl");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: alpha 1.0 is another wheel in `app`, below: `alpha-1.0-py3-none-any.whl` with sha256:<digest>
      --> kiln.toml:17:13
       |
    17 | packages = ["./dist/alpha-1.0-py3-none-any.whl", "beta"]
       |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: `alpha-1.0-py3-none-any.whl` is demanded here: demand the same in both, or leave it out here
    [exit status: 2]
    "#);
    tiers("./dist/alpha-1.0-py3-none-any.whl", "./dist/alpha-1.0-py3-none-any.whl");
    environment.succeed("lock");
    tiers("./dist/alpha-1.0-py3-none-any.whl", "./dist/alpha-2.0-py3-none-any.whl");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `upper` contradict one another on linux/amd64
      --> kiln.toml:17:13
       |
    13 | packages = ["./dist/alpha-1.0-py3-none-any.whl"]
       |             ----------------------------------- in `app`
    ...
    17 | packages = ["./dist/alpha-2.0-py3-none-any.whl", "beta"]
       |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: `alpha` is required from more than one place: file://<root>/project/dist/alpha-2.0-py3-none-any.whl, file://<root>/project/dist/alpha-1.0-py3-none-any.whl
    [exit status: 2]
    "#);
}
