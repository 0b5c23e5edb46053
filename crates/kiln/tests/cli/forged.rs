//! Records that whoever may write the cache's repository has changed, of every kind.

use std::collections::BTreeMap;

use kiln_registry::testing::Options;
use serde_json::{Value, json};

use crate::environment::TestEnvironment;
use crate::gpu_code::ops;
use crate::team::Team;

const RECORD: &str = "dev.kiln.record";
const SIGNATURE: &str = "dev.kiln.signature";
/// The kinds of steps whose records this team has.
const KINDS: [&str; 8] = ["agreement", "conflicts", "copy", "paths", "prune", "users", "venv", "wheels"];

/// A team with every kind of step that an image without a base on a registry has.
fn team() -> Team {
    Team::with(Options::default(), "[cache]\nremote = \"REGISTRY/acme/cache\"\n")
}

/// A machine of the team with all wheels.
fn machine(team: &Team) -> TestEnvironment {
    let machine = team.machine();
    machine.wheel(&ops());
    let text = machine.read("kiln.toml");
    if !text.contains("prune") {
        let text = text.replace("python = \"3.11\"\n", "python = \"3.11\"\ngpus = [\"H100\"]\n");
        let text = text
            .replace("packages = [\"solver\", ", "prune = true\ntimezone = \"UTC\"\npackages = [\"ops\", \"solver\", ");
        machine.stack(&text);
    }
    machine
}

/// The records of the cache by tag: kind, value, and whether somebody signed them.
fn records(team: &Team) -> BTreeMap<String, (String, Value, bool)> {
    let mut records = BTreeMap::new();
    for tag in team.registry.tags("acme/cache") {
        let (_, bytes) = team.registry.manifest("acme/cache", &tag).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let record: Value = serde_json::from_str(document["annotations"][RECORD].as_str().unwrap()).unwrap();
        let signed = document["annotations"].get(SIGNATURE).is_some();
        records.insert(tag, (record["kind"].as_str().unwrap().to_owned(), record["value"].clone(), signed));
    }
    records
}

/// Changes what the records of a kind say; without their signature, if they are to look as if nobody had signed them.
fn forge(team: &Team, kind: &str, keep_signature: bool) {
    let other = team.registry.add_blob("acme/cache", b"something else");
    for repository in ["acme/arr/ml", "acme/arr/train"] {
        team.registry.add_blob(repository, b"something else");
    }
    let mut forged = 0;
    let all = records(team);
    // A list of paths that can be read: that of another wheel.
    let lists: Vec<Value> = all.values().filter_map(|(_, value, _)| value.get("paths").cloned()).collect();
    for (tag, (found, mut value, _)) in all {
        if found != kind || value["wheel"]["file"].as_str().is_some_and(|file| !file.starts_with("ops-")) {
            continue;
        }
        if let Some(list) = value.get_mut("paths") {
            let another = lists.iter().find(|another| *another != list).unwrap();
            *list = another.clone();
        } else if let Some(wheel) = value.get_mut("wheel") {
            // A wheel of the same name that can be used.
            let evil = ops().file("ops/evil.py", "evil = True\n").finish();
            wheel["size"] = evil.len().into();
            wheel["digest"] = team.registry.add_blob("acme/cache", &evil).to_string().into();
        } else {
            value = lie(value, &other.to_string());
        }
        let (media_type, bytes) = team.registry.manifest("acme/cache", &tag).unwrap();
        let mut document: Value = serde_json::from_slice(&bytes).unwrap();
        let mut record: Value = serde_json::from_str(document["annotations"][RECORD].as_str().unwrap()).unwrap();
        record["value"] = value;
        document["annotations"][RECORD] = record.to_string().into();
        if !keep_signature {
            document["annotations"].as_object_mut().unwrap().remove(SIGNATURE);
        }
        team.registry.add_manifest("acme/cache", &tag, &media_type, document.to_string().as_bytes());
        forged += 1;
    }
    assert!(forged > 0, "{kind}");
}

fn lie(mut value: Value, other: &str) -> Value {
    let (product, content) = value.as_object_mut().unwrap().iter_mut().next().unwrap();
    match product.as_str() {
        "layers" => content[0]["digest"] = other.into(),
        "conflicts" => content["left_out"]["opt/venv/bin/tool"] = json!([0]),
        "verdict" => content["warnings"] = json!(["nothing to see here"]),
        "facts" => content["passwd"] = json!(["root:x:0:0:root:/root:/bin/sh", "evil:x:0:0::/:/bin/sh"]),
        product => panic!("no lie about {product}"),
    }
    value
}

/// What a machine tells of a build with its own key.
fn push_signed(machine: &TestEnvironment) {
    let outcome = machine.shell("KILN_CACHE_KEY_FILE=secret.key $KILN build --push");
    assert_eq!(outcome.status, Some(0), "{outcome}");
}

#[test]
fn the_cache_has_records_of_every_kind() {
    let mut team = team();
    let first = machine(&team);
    first.succeed("build --push");
    team.commit(&first);
    let found: std::collections::BTreeSet<String> =
        records(&team).into_values().map(|(kind, ..)| kind).filter(|kind| kind != "image").collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), KINDS);
}

#[test]
fn a_forged_record_is_refused_under_keys() {
    let mut team = team();
    let first = machine(&team);
    let key = first.succeed("cache keygen secret.key").trim().to_owned();
    let stack = first.read("kiln.toml");
    first.stack(&stack.replace("/acme/cache\"\n", &format!("/acme/cache\"\ntrust = [\"{key}\"]\n")));
    let digests = first.digests("");
    push_signed(&first);
    team.commit(&first);
    for kind in KINDS {
        forge(&team, kind, true);
    }
    assert_eq!(machine(&team).digests("--locked"), digests);
}

#[test]
fn a_forged_record_is_never_signed_by_a_machine_that_believed_it_and_is_found_by_deriving_it() {
    for kind in KINDS {
        let mut team = team();
        let first = machine(&team);
        first.succeed("build --push");
        team.commit(&first);
        let honest = records(&team);
        forge(&team, kind, false);
        // This one trusts the registry, and signs.
        let second = machine(&team);
        second.succeed("cache keygen secret.key");
        push_signed(&second);
        for (tag, (kind, value, signed)) in records(&team) {
            if let Some((_, real, _)) = honest.get(&tag).filter(|_| signed && kind != "image") {
                assert_eq!(&value, real, "{kind}: a lie is signed");
            }
        }
        let verdict = second.kiln("cache verify");
        assert_eq!(verdict.status, Some(1), "{kind}: {verdict}");
        assert!(
            verdict.stdout.lines().any(|line| line.contains("is WRONG") && line.contains(kind)),
            "{kind}: {verdict}"
        );
    }
}

#[test]
fn a_list_of_paths_that_cannot_be_read_is_made_again() {
    let mut team = team();
    let first = machine(&team);
    let digests = first.digests("--push");
    team.commit(&first);
    let garbage = team.registry.add_blob("acme/cache", b"no list at all").to_string();
    for (tag, (kind, value, _)) in records(&team) {
        if kind == "paths" {
            let (media_type, bytes) = team.registry.manifest("acme/cache", &tag).unwrap();
            let list = value["paths"]["list"].as_str().unwrap();
            let text = String::from_utf8(bytes).unwrap().replace(list, &garbage);
            team.registry.add_manifest("acme/cache", &tag, &media_type, text.as_bytes());
        } else if kind == "conflicts" || kind == "agreement" || kind == "wheels" {
            // What rests on the lists is to be found out again.
            team.registry.add_manifest("acme/cache", &tag, "application/json", b"{}");
        }
    }
    assert_eq!(machine(&team).digests("--locked"), digests);
}

#[test]
fn whoever_made_a_product_and_signs_replaces_a_record_that_nobody_signed() {
    let mut team = team();
    let first = machine(&team);
    first.succeed("build --push");
    team.commit(&first);
    assert!(records(&team).values().all(|(.., signed)| !signed));
    first.succeed("cache keygen secret.key");
    push_signed(&first);
    let unsigned: Vec<_> = records(&team).into_iter().filter(|(_, (.., signed))| !signed).collect();
    assert!(unsigned.is_empty(), "{unsigned:?}");
    // A machine that only read them has nothing to sign.
    let second = machine(&team);
    second.succeed("cache keygen secret.key");
    let before = records(&team);
    push_signed(&second);
    assert_eq!(records(&team), before);
}
