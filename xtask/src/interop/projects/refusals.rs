//! Requirements that have no answer: what kiln makes of the words of the real resolver.

use std::path::Path;

use kiln_testing::Listener;
use kiln_testing::http::Answer;

use super::{Result, Suite, lock};
use crate::interop::report::Checks;

/// Packages that torch's own release keeps back over a base with another build of it.
const BASE: &str = "\n[images.a.base-facts]\nlibc = { family = \"glibc\", version = \"2.36\" }\n\
                    interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.9\" }]\n\
                    distributions = [{ location = \"/usr/lib/python3/dist-packages\", name = \"torch\", version = \"2.8.0a0+nv25.5\" }]";

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks, project: &Path) {
    checks.check("all packages without a wheel are named at once, with the wheels that there are", || {
        let images =
            "packages = [\"pycocotools==2.0.0\", \"omegaconf==2.3.0\", \"tensorflow==2.5.0\", \"numpy==1.19.5\"]";
        refused(
            suite,
            &project.join("blockers"),
            images,
            &[
                "no wheel of pycocotools",
                "these have their source alone",
                "no wheel of antlr4-python3-runtime",
                "no wheel of tensorflow",
                "no wheel of numpy",
                "are for cp36, pp36, cp37, cp38, cp39 alone; 1.23.2 to",
            ],
        )
    });
    checks.check("an index that answers with something else is named, with what it answered", || {
        odd_indexes(suite, &project.join("odd"))
    });
    checks.check("a constraint and an override are told as what they are", || {
        let constraint = "packages = [\"pandas==2.2.0\"]\nresolution = { constraints = [\"numpy<1.20\"] }";
        let says = ["pandas==2.2.0 depends on numpy>=1.23.2,<2, and the constraint `numpy<1.20` holds", "a constraint"];
        refused(suite, &project.join("constraint"), constraint, &says)?;
        let bound = "packages = [\"datasets==2.20.0\"]\n\
                     resolution = { overrides = [\"fsspec==2024.6.1\"], constraints = [\"fsspec<2024\"] }";
        let says =
            ["the override `fsspec==2024.6.1` replaces what others require", "the constraint `fsspec<2024` holds"];
        refused(suite, &project.join("override"), bound, &says)
    });
    checks.check("a package that the torch of a base keeps back is named, with what it needs", || {
        let project = project.join("over");
        let text = "[stack]\nname = \"over\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[images.a]\n\
                    from = \"scratch\"\npackages = [\"xformers\"]\n";
        fs_err::create_dir_all(&project)?;
        fs_err::write(project.join("kiln.toml"), format!("{text}{BASE}\n"))?;
        let says = ["depends on torch", "and the base has torch 2.8.0a0+nv25.5", "accept = [\"torch\"]"];
        says_all(suite, &project, 2, &says)
    });
}

/// An index that answers with something else than the page of a package: the first part of the path says with what.
fn odd(kind: &str, path: &str) -> Answer {
    const JSON: &str = "application/vnd.pypi.simple.v1+json";
    match kind {
        "loop" => Answer::new(302).with("Location", path),
        "login" => Answer::new(200).body("text/html", b"<html><form><input name=user></form></html>".to_vec()),
        "version" => {
            Answer::new(200).body(JSON, br#"{"meta": {"api-version": "9.0"}, "name": "six", "files": []}"#.to_vec())
        }
        "json" => Answer::new(200).body(JSON, b"{broken".to_vec()),
        "text" => Answer::new(200).body("text/plain", b"hello".to_vec()),
        "untold" => Answer::new(200),
        "empty" => Answer::new(200).body("text/html", Vec::new()),
        "gone" => Answer::new(410),
        _ => Answer::new(500),
    }
}

/// Each kind of odd answer ends with the address, what came, and advice.
fn odd_indexes(suite: &Suite, project: &Path) -> Result<()> {
    let listener = Listener::bind();
    let address = listener.address().to_owned();
    let _server = listener.serve(|mut stream, head, _| {
        let kind = head.path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        let answer = odd(&kind, &head.path());
        answer.write_head(&mut stream, false)?;
        if head.method != "HEAD" {
            std::io::Write::write_all(&mut stream, &answer.body)?;
        }
        Ok(head.keep_alive)
    });
    for (kind, says) in [
        ("loop", "redirects without an end"),
        ("login", "answered with a page with a form"),
        ("version", "answered with a page of version 9.0"),
        ("json", "answered with JSON"),
        ("text", "answered with text/plain"),
        ("untold", "answered with no media type"),
        ("empty", "answered with an empty page"),
        ("gone", "answered 410"),
        ("fails", "answered 500"),
    ] {
        let index = format!("packages = [\"six\"]\n\n[index]\ndefault = \"http://{address}/{kind}/simple\"");
        let project = project.join(kind);
        if lock(suite, &project, &index, "a").is_ok() {
            return Err(format!("{kind}: it is locked").into());
        }
        says_all(suite, &project, 3, &[&format!("`http://{address}/{kind}/simple/six/` {says}"), "hint: "])?;
    }
    Ok(())
}

/// Locks an image that cannot be, and looks for parts of the message.
fn refused(suite: &Suite, project: &Path, images: &str, says: &[&str]) -> Result<()> {
    if lock(suite, project, images, "a").is_ok() {
        return Err("it is locked".into());
    }
    says_all(suite, project, 2, says)
}

fn says_all(suite: &Suite, project: &Path, status: i32, says: &[&str]) -> Result<()> {
    let output = suite.kiln(project).arg("lock").output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match says.iter().find(|part| !error.contains(**part)) {
        Some(part) => Err(format!("`{part}` is not in: {error}").into()),
        None if output.status.code() != Some(status) => Err(format!("it ends with {}: {error}", output.status).into()),
        None => Ok(()),
    }
}
