//! Counting cases and findings, and the text at the end.

use std::collections::BTreeMap;

use super::campaign::{Campaign, Report};

/// Failures of one kind: how many, and the case that showed it first.
#[derive(Debug)]
struct Failures {
    count: u64,
    first: u64,
}

/// The results of one campaign.
#[derive(Debug, Default)]
struct Results {
    done: u64,
    missed: u64,
    failed: u64,
    between: u64,
    functions: BTreeMap<String, u64>,
    kinds: BTreeMap<String, Failures>,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    campaigns: BTreeMap<Campaign, Results>,
    /// Cases that the harness itself could not run.
    broken: u64,
}

impl Summary {
    /// Takes the report of a case.
    pub(crate) fn add(&mut self, campaign: Campaign, case: u64, report: &Report) {
        let results = self.campaigns.entry(campaign).or_default();
        if report.done {
            results.done += 1;
        } else {
            results.missed += 1;
        }
        if !report.problems.is_empty() {
            results.failed += 1;
        }
        let kinds: std::collections::BTreeSet<&String> = report.problems.iter().map(|found| &found.kind).collect();
        for kind in kinds {
            let failures = results.kinds.entry(kind.clone()).or_insert(Failures { count: 0, first: case });
            failures.count += 1;
        }
        if let Some(hit) = &report.hit {
            *results.functions.entry(hit.function.clone()).or_default() += 1;
            results.between += u64::from(hit.between);
        }
    }

    /// Takes a case that could not be run.
    pub(crate) fn add_broken(&mut self) {
        self.broken += 1;
    }

    /// Whether nothing was found, and at least half of the kills hit between the first write and the last rename.
    pub(crate) fn is_good(&self) -> bool {
        self.broken == 0 && self.campaigns.values().all(|results| results.failed == 0) && self.kills_are_spread()
    }

    fn kills_are_spread(&self) -> bool {
        self.campaigns.get(&Campaign::Kills).is_none_or(|kills| kills.between * 2 >= kills.done)
    }

    /// The text at the end.
    pub(crate) fn text(&self, seed: u64) -> String {
        let mut text = String::new();
        for (campaign, results) in &self.campaigns {
            text.push_str(&format!("{}: {} cases, {} with failures", campaign.name(), results.done, results.failed));
            if results.missed > 0 {
                text.push_str(&format!(", {} without their disturbance", results.missed));
            }
            text.push('\n');
            if !results.functions.is_empty() {
                let between = results.between;
                text.push_str(&format!("  between the first write and the last rename: {between}\n  at "));
                let mut functions: Vec<_> = results.functions.iter().collect();
                functions.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
                let functions = functions.iter().map(|(function, count)| format!("{function} {count}"));
                text.push_str(&functions.collect::<Vec<_>>().join(", "));
                text.push('\n');
            }
            for (kind, Failures { count, first }) in &results.kinds {
                text.push_str(&format!(
                    "  {count:4} {kind}: --only {} --seed {seed} --case {first}\n",
                    campaign.name()
                ));
            }
        }
        if !self.kills_are_spread() {
            text.push_str("fewer than half of the kills hit between the first write and the last rename\n");
        }
        if self.broken > 0 {
            text.push_str(&format!("{} cases could not be run\n", self.broken));
        }
        let end = if self.is_good() { "nothing wrong was found" } else { "FAILED" };
        text + end + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::campaign::Hit;
    use crate::torture::outcome::problem;

    fn killed(between: bool, problems: &[&str]) -> Report {
        let hit = Some(Hit { function: "rename".into(), between });
        let problems = problems.iter().map(|kind| problem(*kind, "details")).collect();
        Report { what: "cold".into(), problems, hit, done: true }
    }

    #[test]
    fn a_finding_is_a_failure_with_the_case_that_shows_it() {
        let mut summary = Summary::default();
        summary.add(Campaign::Kills, 3, &killed(true, &[]));
        assert!(summary.is_good());
        summary.add(Campaign::Kills, 4, &killed(true, &["lost", "lost"]));
        summary.add(Campaign::Kills, 9, &killed(false, &["lost"]));
        assert!(!summary.is_good());
        let text = summary.text(7);
        assert!(text.contains("kills: 3 cases, 2 with failures"), "{text}");
        assert!(text.contains("   2 lost: --only kills --seed 7 --case 4"), "{text}");
        assert!(text.ends_with("FAILED\n"), "{text}");
    }

    #[test]
    fn kills_that_hit_where_nothing_is_written_are_a_failure() {
        let mut summary = Summary::default();
        summary.add(Campaign::Kills, 0, &killed(false, &[]));
        assert!(!summary.is_good());
    }
}
