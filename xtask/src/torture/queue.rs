//! Which case comes next.

use std::time::Instant;

use super::campaign::Campaign;

/// The order of campaigns: each as often as it stands here.
const TURNS: [Campaign; 14] = [
    Campaign::Kills,
    Campaign::Damages,
    Campaign::Groups,
    Campaign::Commands,
    Campaign::Kills,
    Campaign::FullDisks,
    Campaign::Kills,
    Campaign::Damages,
    Campaign::Servers,
    Campaign::Commands,
    Campaign::Kills,
    Campaign::Groups,
    Campaign::Damages,
    Campaign::FullDisks,
];

/// Cases that are left of a campaign: the next number, and the one after the last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    pub(crate) campaign: Campaign,
    pub(crate) next: u64,
    pub(crate) end: u64,
}

/// The cases that are left.
#[derive(Debug)]
pub(crate) struct Queue {
    left: Vec<Left>,
    until: Option<Instant>,
    turn: usize,
}

impl Queue {
    /// These cases, until some moment if there is one.
    pub(crate) fn new(left: Vec<Left>, until: Option<Instant>) -> Self {
        Self { left, until, turn: 0 }
    }

    /// Adds one case, for one that did not happen.
    pub(crate) fn one_more(&mut self, campaign: Campaign) {
        if let Some(left) = self.left.iter_mut().find(|left| left.campaign == campaign) {
            left.end = left.end.saturating_add(1);
        }
    }
}

impl Iterator for Queue {
    type Item = (Campaign, u64);

    fn next(&mut self) -> Option<(Campaign, u64)> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        for _ in 0..TURNS.len() {
            let campaign = TURNS.get(self.turn % TURNS.len())?;
            self.turn += 1;
            let left = self.left.iter_mut().find(|left| left.campaign == *campaign && left.next < left.end);
            if let Some(left) = left {
                left.next += 1;
                return Some((*campaign, left.next - 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_campaign_gets_as_many_cases_as_were_asked_for() {
        let left = |campaign, end| Left { campaign, next: 0, end };
        let mut queue = Queue::new(vec![left(Campaign::Kills, 2), left(Campaign::Servers, 1)], None);
        let kills = (Campaign::Kills, 0);
        assert_eq!(queue.by_ref().collect::<Vec<_>>(), [kills, (Campaign::Kills, 1), (Campaign::Servers, 0)]);
        queue.one_more(Campaign::Kills);
        assert_eq!(queue.next(), Some((Campaign::Kills, 2)));
    }

    #[test]
    fn a_queue_ends_when_its_time_is_over() {
        let left = Left { campaign: Campaign::Kills, next: 0, end: u64::MAX };
        assert_eq!(Queue::new(vec![left], Some(Instant::now())).next(), None);
    }
}
