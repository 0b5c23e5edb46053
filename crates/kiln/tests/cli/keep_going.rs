//! Builds of which a part fails.

use insta::assert_snapshot;

use crate::environment::TestEnvironment;
use crate::wheels::{pure, stack};

/// A stack with three images: one whose wheels cannot be together in a layer, one on top of that, and one beside both.
fn project() -> TestEnvironment {
    let broken = stack("packages = [\"broken\", \"other\"]");
    let rest =
        "\n[images.above]\nfrom = \"app\"\n\n[images.beside]\nfrom = { oci = \"base\" }\npackages = [\"words\"]\n";
    let environment = TestEnvironment::with_stack(&format!("{broken}{rest}"));
    environment.wheel(&pure("broken", "1.0").file("shared", "a file"));
    environment.wheel(&pure("other", "1.0").file("shared/inside.py", "below it"));
    environment.wheel(&pure("words", "1.0"));
    environment
}

#[test]
fn what_does_not_depend_on_the_failure_is_delivered_if_the_user_wants_that() {
    let environment = project();
    let alone = project().digests("beside");
    let outcome = environment.kiln("build --output oci:out");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(2), ""), "{outcome}");
    assert!(!environment.path("out").exists());
    assert_snapshot!(environment.kiln("build --keep-going --output oci:out"), @r"
    beside sha256:<digest> <size> in 3 layers
    ------- stderr -------
    warning: `app` is left out: it depends on what failed
    warning: `above` is left out: it depends on what failed
    error: `/opt/venv/lib/python3.11/site-packages/shared` is a file in `broken-1.0-py3-none-any.whl` and a directory in `other-1.0-py3-none-any.whl`: in an image the one removes the other

    hint: leave one of the two out, or give it another place
    [exit status: 2]
    ");
    let index = environment.read("out/index.json");
    assert_eq!(index.matches("org.opencontainers.image.ref.name").count(), 1, "{index}");
    let json = environment.kiln("build --keep-going --json");
    assert_eq!(json.status, Some(2), "{json}");
    let document: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let names: Vec<_> = document["images"].as_array().unwrap().iter().map(|image| image["name"].clone()).collect();
    assert_eq!(names, ["beside"]);
    assert_eq!(document["images"][0]["digest"].as_str().unwrap(), alone[0].1);
    // The failed image has all its layers, and is not what a plan calls unchanged.
    assert_snapshot!(environment.kiln("plan"), @r"
    app (linux/amd64)
      oci base                         in the store
      virtual environment              in the store
      2 small packages      2.04 kB    depends on app: never built
      image                            depends on 2 small packages
    above (linux/amd64)
      image                            depends on app
    beside (linux/amd64)
      oci base                         in the store
      virtual environment              in the store
      words 1.0               859 B    in the store

    app: 1 step to do · above: depends on app · beside: unchanged
    ");
}
