//! The campaigns, and what becomes of a case.

use clap::ValueEnum;

use super::outcome::Problem;
use super::world::World;
use super::{Result, commands, damages, groups, kills, servers};
use crate::random::Random;

/// A kind of disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Campaign {
    /// SIGKILL at a change of the file system
    Kills,
    /// Files of the store, of layouts and of the project that are damaged or lost
    Damages,
    /// Two to eight processes in one store
    Groups,
    /// A disk that is full from some change of the file system on
    FullDisks,
    /// A registry and an index that fail
    Servers,
    /// Commands of images: kiln is killed, runs beside others, its unpacked layers are damaged, its disk is full
    Commands,
}

impl Campaign {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Damages => "damages",
            Self::Groups => "groups",
            Self::FullDisks => "full-disks",
            Self::Servers => "servers",
            Self::Commands => "commands",
        }
    }

    /// Runs one case, the same for the same seed and number.
    pub(crate) fn run(self, world: &World, seed: u64, case: u64) -> Result<Report> {
        let mut random = Random::of_case(seed, self.name(), case);
        let name = format!("{}-{case}", self.name());
        let report = match self {
            Self::Kills => kills::kill(world, &name, &mut random),
            Self::FullDisks => kills::fill(world, &name, &mut random),
            Self::Damages => damages::run(world, &name, &mut random),
            Self::Groups => groups::run(world, &name, &mut random),
            Self::Servers => servers::run(world, &name, &mut random),
            Self::Commands => commands::run(world, &name, &mut random),
        };
        report.map(Report::joined)
    }
}

/// What became of a case.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The disturbance in words.
    pub(crate) what: String,
    pub(crate) problems: Vec<Problem>,
    /// Where a process was disturbed.
    pub(crate) hit: Option<Hit>,
    /// Whether the disturbance happened.
    pub(crate) done: bool,
}

impl Report {
    /// Joins findings of the same kind to one.
    pub(crate) fn joined(mut self) -> Self {
        let mut joined: Vec<(Problem, usize)> = Vec::new();
        for found in self.problems {
            match joined.iter_mut().find(|(first, _)| first.kind == found.kind) {
                Some((_, count)) => *count += 1,
                None => joined.push((found, 1)),
            }
        }
        let one = |(mut first, count): (Problem, usize)| {
            if count > 1 {
                first.details.push_str(&format!(" and {} more", count - 1));
            }
            first
        };
        self.problems = joined.into_iter().map(one).collect();
        self
    }
}

/// The change of the file system at which a process was disturbed.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The system call.
    pub(crate) function: String,
    /// Whether it lies between the first write of content and the last rename.
    pub(crate) between: bool,
}
