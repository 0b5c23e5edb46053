//! Patterns as sequences of pieces, each of which takes some of the path.
//!
//! Neither git's patterns nor Docker's know alternatives or groups within groups, so a set of places in the path is enough:
//! those up to which the pieces so far can reach. It moves along with each piece, and no pattern makes a match slow.

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// One character of a set.
    One(Set),
    /// Any number of characters of a set.
    Many(Set),
    /// Whole directories, each with its slash, and none at all: characters of a set, then a slash.
    Directories(Set),
    /// A piece so many times at least, and at most.
    Repeated(Box<Piece>, u32, Option<u32>),
    /// The beginning of the path.
    Begin,
    /// The end of the path.
    End,
    /// The beginning or end of a word (`true`), or a place that is neither.
    Boundary(bool),
}

/// A set of characters: bytes for git, code points for Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set(Vec<(u32, u32)>);

/// The highest code point.
const LAST: u32 = char::MAX as u32;
const SLASH: u32 = '/' as u32;

impl Set {
    pub(crate) fn of(ranges: Vec<(u32, u32)>) -> Self {
        Self(ranges)
    }

    pub(crate) fn one(character: u32) -> Self {
        Self(vec![(character, character)])
    }

    pub(crate) fn all_but(character: u32) -> Self {
        Self::one(character).complement()
    }

    pub(crate) fn any() -> Self {
        Self(vec![(0, LAST)])
    }

    /// The characters that are not in it.
    pub(crate) fn complement(mut self) -> Self {
        self.0.sort_unstable();
        let (mut ranges, mut next) = (Vec::new(), 0);
        for (first, last) in self.0 {
            if first > next {
                ranges.push((next, first - 1));
            }
            next = next.max(last.saturating_add(1));
        }
        if next <= LAST {
            ranges.push((next, LAST));
        }
        Self(ranges)
    }

    /// The set with one character less.
    pub(crate) fn without(self, character: u32) -> Self {
        let mut others = self.complement();
        others.0.push((character, character));
        others.complement()
    }

    pub(crate) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    fn holds(&self, character: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&character))
    }
}

/// Pieces that take the whole of a path, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pieces: Vec<Piece>,
    from_the_beginning: bool,
    to_the_end: bool,
}

impl Alternative {
    /// Pieces that take a part of a path, wherever it is.
    pub(crate) fn of(mut pieces: Vec<Piece>) -> Self {
        let from_the_beginning = pieces.first() == Some(&Piece::Begin);
        let to_the_end = pieces.last() == Some(&Piece::End);
        if from_the_beginning {
            pieces.remove(0);
        }
        if to_the_end {
            pieces.pop();
        }
        Self { pieces, from_the_beginning, to_the_end }
    }

    /// Pieces that take whole paths.
    pub(crate) fn whole(pieces: Vec<Piece>) -> Self {
        Self { pieces, from_the_beginning: true, to_the_end: true }
    }

    /// Returns true if the pieces take a path.
    pub(crate) fn takes(&self, path: &[u32]) -> bool {
        // Most paths that are not taken differ from the pattern in their last character.
        if self.to_the_end
            && let Some(Piece::One(set)) = self.pieces.last()
            && !path.last().is_some_and(|last| set.holds(*last))
        {
            return false;
        }
        let mut places = vec![!self.from_the_beginning; path.len() + 1];
        places[0] = true;
        self.pieces.iter().all(|piece| advance(piece, path, &mut places)) && (!self.to_the_end || places[path.len()])
    }
}

/// Moves a set of places along one piece; false if none is left.
fn advance(piece: &Piece, path: &[u32], places: &mut [bool]) -> bool {
    match piece {
        Piece::One(set) => {
            for at in (0..path.len()).rev() {
                places[at + 1] = places[at] && set.holds(path[at]);
            }
            places[0] = false;
        }
        Piece::Many(set) => {
            for at in 0..path.len() {
                places[at + 1] |= places[at] && set.holds(path[at]);
            }
        }
        Piece::Directories(set) => {
            let mut open = false;
            for at in 0..path.len() {
                open |= places[at];
                places[at + 1] |= open && path[at] == SLASH;
                open &= set.holds(path[at]);
            }
        }
        Piece::Repeated(piece, least, most) => repeat(piece, (*least, *most), path, places),
        Piece::Begin => places[1..].fill(false),
        Piece::End => places[..path.len()].fill(false),
        Piece::Boundary(wanted) => {
            for (at, place) in places.iter_mut().enumerate() {
                let before = at > 0 && is_word(path[at - 1]);
                let after = path.get(at).is_some_and(|character| is_word(*character));
                *place &= (before != after) == *wanted;
            }
        }
    }
    places.contains(&true)
}

/// Ends when more repetitions would reach nothing new: after as many as the path has characters.
fn repeat(piece: &Piece, (least, most): (u32, Option<u32>), path: &[u32], places: &mut [bool]) {
    for _ in 0..least {
        if !advance(piece, path, places) {
            return;
        }
    }
    let mut last = places.to_vec();
    let mut left = most.map_or(u32::MAX, |most| most - least);
    while left > 0 && advance(piece, path, &mut last) {
        let before = places.to_vec();
        places.iter_mut().zip(&last).for_each(|(place, reached)| *place |= reached);
        if *places == before {
            return;
        }
        left -= 1;
    }
}

fn is_word(character: u32) -> bool {
    char::from_u32(character).is_some_and(|character| character == '_' || character.is_ascii_alphanumeric())
}
