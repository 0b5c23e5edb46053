//! Requirements that have no answer, shown with the lines of what they meet: constraints, overrides, locks, the base.

use insta::assert_snapshot;
use kiln_plan::digest::Digest;

use crate::environment::TestEnvironment;
use crate::wheels::{pure, stack};

/// A project with `frames`, which needs `numbers>=2`, and these lines in its image and behind it.
fn project(image: &str, more: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&format!("{}\n{more}\n", stack(image)));
    for version in ["1.26", "2.1"] {
        environment.wheel(&pure("numbers", version));
    }
    environment.wheel(&pure("frames", "1.0").requires("numbers>=2"));
    environment
}

#[test]
fn a_constraint_is_shown_with_its_line() {
    let environment = project("packages = [\"frames\"]", "[resolution]\nconstraints = [\"numbers < 2\"]");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `app` contradict one another on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["frames"]
       |             ^^^^^^^^
    ...
    16 | constraints = ["numbers < 2"]
       |                ------------- a constraint
       |
    help: Because the constraint `numbers < 2` holds and frames==1.0 depends on numbers>=2
    [exit status: 2]
    "#);
    let environment = project("requirements = \"requirements.txt\"", "");
    environment.write("requirements.txt", "frames\n-c bounds.txt\n");
    environment.write("bounds.txt", "# old\nnumbers<2\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the packages of `app` contradict one another on linux/amd64
     --> requirements.txt:1:1
      |
    1 | frames
      | ^^^^^^
      |
     ::: bounds.txt:2:1
      |
    2 | numbers<2
      | --------- a constraint
      |
    help: Because the constraint `numbers<2` holds and frames==1.0 depends on numbers>=2
    [exit status: 2]
    ");
    let environment = project("requirements = \"pyproject.toml\"", "");
    environment.write(
        "pyproject.toml",
        "[project]\nname = \"p\"\nversion = \"1\"\ndependencies = [\"frames\"]\n[tool.uv]\n\
         constraint-dependencies = [\"numbers<2\"]\n",
    );
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `app` contradict one another on linux/amd64
     --> pyproject.toml:4:17
      |
    4 | dependencies = ["frames"]
      |                 ^^^^^^^^
    5 | [tool.uv]
    6 | constraint-dependencies = ["numbers<2"]
      |                            ----------- a constraint
      |
    help: Because the constraint `numbers<2` holds and frames==1.0 depends on numbers>=2
    [exit status: 2]
    "#);
}

#[test]
fn an_override_is_shown_with_its_line() {
    let environment = project("packages = [\"frames\"]", "[resolution]\noverrides = [\"numbers==3\"]");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `app` contradict one another on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["frames"]
       |             ^^^^^^^^
    ...
    16 | overrides = ["numbers==3"]
       |              ------------ an override
       |
    help: Because only numbers==1.26 or numbers==2.1 is available and the override `numbers==3` replaces what others require of numbers
    [exit status: 2]
    "#);
}

#[test]
fn a_lock_of_another_tool_is_shown_with_its_line() {
    let environment = project("requirements = \"pylock.toml\"\npackages = [\"frames\"]", "");
    let digest = Digest::of(&pure("numbers", "1.26").finish()).hex();
    let lock = |version: &str| {
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"numbers\"\nversion = \"{version}\"\n\
             wheels = [{{ path = \"wheels/numbers-{version}-py3-none-any.whl\", hashes = {{ sha256 = \"{digest}\" }} }}]\n"
        )
    };
    environment.write("pylock.toml", lock("1.26"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `app` contradict one another on linux/amd64
      --> kiln.toml:14:13
       |
    14 | packages = ["frames"]
       |             ^^^^^^^^
       |
      ::: pylock.toml:4:8
       |
     4 | name = "numbers"
       |        --------- locked here
       |
    help: Because `pylock.toml` has numbers 1.26 and frames==1.0 depends on numbers>=2
    [exit status: 2]
    "#);
    environment.write("pylock.other.toml", lock("2.1"));
    environment.stack(&stack("requirements = [\"pylock.toml\", \"pylock.other.toml\"]"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: two locks of `app` name numbers 1.26 and 2.1
     --> pylock.toml:4:8
      |
    4 | name = "numbers"
      |        ^^^^^^^^^
      |
     ::: pylock.other.toml:4:8
      |
    4 | name = "numbers"
      |        ---------
      |
    help: lock them together, or take one
    [exit status: 2]
    "#);
}
