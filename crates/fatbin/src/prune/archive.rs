//! Static libraries (ar(5), with the symbol index of System V and its form of 64 bits): their object files are cut, and the
//! index names the new places.

use std::collections::BTreeMap;

use super::object::{self, Object, Planned};
use super::rewrite::{Piece, Rewrite};
use super::{Cut, Decision, Served, Stop, refused};
use crate::ar::{ARCHIVE, HEADER, Member, SIZE};
use crate::elf::{Elf, ElfError, Machine};

use crate::selection::Selection;
use crate::source::{Part, Source, Window};

/// Names of the members that are indices, each with the bytes of its numbers, which are big-endian.
const INDICES: [(&[u8; 16], usize); 2] = [(b"/               ", 4), (b"/SYM64/         ", 8)];
/// The index of other systems, which is laid out otherwise.
const OTHER_INDEX: &[u8] = b"__.SYMDEF";
/// Bytes of the largest index.
const MOST: u64 = 64 << 20;

/// Finds out how to cut a static library.
pub(super) fn plan<S: Source + ?Sized>(
    source: &S,
    window: &mut Window<'_, S>,
    selection: &Selection,
) -> Result<Decision, Stop> {
    let members = members(window)?;
    let mut cut: BTreeMap<u64, Object> = BTreeMap::new();
    let (mut has_code, mut needs_all, mut refusal) = (false, true, None);
    let mut served = Served::default();
    for member in &members {
        match object(source, member, selection)? {
            None => {}
            Some(Ok(planned)) => {
                has_code = true;
                needs_all &= planned.needed;
                served.merge(planned.served);
                planned.object.and_then(|object| cut.insert(member.at, object));
            }
            // The others can be cut still.
            Some(Err(reason)) => refusal = Some(reason),
        }
    }
    let serves = served.holds();
    if cut.is_empty() {
        return match refusal {
            Some(reason) => Err(refused(reason)),
            None if has_code => Ok(Decision::Stays { needed: needs_all, serves, uncut: 0 }),
            None => Ok(Decision::NoCode),
        };
    }
    let sizes: Vec<u64> = members.iter().map(|member| cut.get(&member.at).map_or(member.size, bytes)).collect();
    let places = places(&members, &sizes);
    let mut pieces = vec![Piece::Bytes(ARCHIVE.to_vec())];
    for (member, size) in members.iter().zip(&sizes) {
        let mut header = member.header;
        header[SIZE].copy_from_slice(format!("{size:<10}").as_bytes());
        pieces.push(Piece::Bytes(header.to_vec()));
        match (cut.get(&member.at), width(member)) {
            (Some(object), _) => pieces.extend(object.pieces.iter().map(|piece| piece.shifted(member.from))),
            (None, Some(width)) => pieces.push(Piece::Bytes(index(window, member, width, &places)?)),
            (None, None) => pieces.push(Piece::Copy { from: member.from, bytes: member.size }),
        }
        if size % 2 == 1 {
            pieces.push(Piece::Bytes(b"\n".to_vec()));
        }
    }
    let (regions, pinned) = cut.values().fold((0, 0), |sum, own| (sum.0 + own.regions, sum.1 + own.pinned));
    let code = cuts(cut.into_values().flat_map(|object| object.code));
    let mut rewrite = Rewrite::of_pieces(window.size(), (regions, pinned), code, pieces);
    rewrite.serves = serves;
    Ok(Decision::Rewrite(Box::new(rewrite)))
}

/// The code of a static library that stays whatever GPUs are wanted: sections of its object files, and bytes.
pub(super) fn uncut<S: Source + ?Sized>(source: &S, nothing: &Selection) -> Result<Vec<(String, u64)>, Stop> {
    let mut pinned = Vec::new();
    for member in members(&mut Window::new(source)?)? {
        if let Some(Ok(planned)) = object(source, &member, nothing)? {
            pinned.extend(planned.pinned);
        }
    }
    Ok(pinned)
}

/// The members of an archive.
fn members<S: Source + ?Sized>(window: &mut Window<'_, S>) -> Result<Vec<Member>, Stop> {
    let mut members = Vec::new();
    let mut at = ARCHIVE.len() as u64;
    while at < window.size() {
        let member = Member::read_whole(window, at)?.map_err(refused)?;
        if member.header.starts_with(OTHER_INDEX) {
            return Err(refused("its index is of a kind that is not known"));
        }
        at = member.next();
        members.push(member);
    }
    Ok(members)
}

/// The plan for a member, or why it stays as it is; nothing where it has no code.
fn object<S: Source + ?Sized>(
    source: &S,
    member: &Member,
    selection: &Selection,
) -> Result<Option<Result<Planned, String>>, Stop> {
    let part = Part { source, from: member.from, size: member.size };
    let mut window = Window::new(&part)?;
    let elf = match Elf::read(&mut window) {
        Ok(elf) => elf,
        Err(ElfError::NotElf | ElfError::Unsupported) => return Ok(None),
        Err(ElfError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(refused(format!("at byte {:#x} a member of the archive {error}", member.at))),
    };
    let known = matches!(elf.machine, Machine::X86_64 | Machine::Aarch64) && object::is_object(&elf);
    if !known || super::fats(&mut window, &elf)?.is_empty() {
        return Ok(None);
    }
    match object::plan(&mut window, &elf, selection) {
        Ok(planned) => Ok(Some(Ok(planned))),
        Err(Stop::Refused(reason)) => Ok(Some(Err(reason))),
        Err(stop) => Err(stop),
    }
}

fn bytes(object: &Object) -> u64 {
    object.pieces.iter().map(Piece::size).sum()
}

/// The new place of each member, by the old one.
fn places(members: &[Member], sizes: &[u64]) -> BTreeMap<u64, u64> {
    let mut at = ARCHIVE.len() as u64;
    let place = |(member, size): (&Member, &u64)| {
        let place = (member.at, at);
        at += HEADER + size + size % 2;
        place
    };
    members.iter().zip(sizes).map(place).collect()
}

/// Bytes of each number of an index.
fn width(member: &Member) -> Option<usize> {
    INDICES.iter().find(|(name, _)| member.header.starts_with(*name)).map(|(_, width)| *width)
}

/// The content of an index: a count, as many places of members, and names.
fn index<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    member: &Member,
    width: usize,
    places: &BTreeMap<u64, u64>,
) -> Result<Vec<u8>, Stop> {
    let mut content = read(window, member)?;
    for at in numbers(&content, width)? {
        let old = number(&content[at..at + width]);
        let new = places.get(&old).ok_or_else(|| refused("its index names a member that is not there"))?;
        content[at..at + width].copy_from_slice(&new.to_be_bytes()[8 - width..]);
    }
    Ok(content)
}

fn read<S: Source + ?Sized>(window: &mut Window<'_, S>, member: &Member) -> Result<Vec<u8>, Stop> {
    if member.size > MOST {
        return Err(refused("its index is larger than any that is known"));
    }
    let content = member.content(window)?;
    if (content.len() as u64) < member.size {
        return Err(refused("its index is cut off"));
    }
    Ok(content)
}

/// Positions of the numbers of an index, behind their count.
fn numbers(content: &[u8], width: usize) -> Result<impl Iterator<Item = usize> + use<>, Stop> {
    let count = content.get(..width).map_or(0, number);
    let room = (content.len() / width) as u64;
    if count >= room.max(1) {
        return Err(refused("its index is cut off"));
    }
    Ok((1..=count as usize).map(move |at| at * width))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Adds up what members have of each kind.
fn cuts(all: impl Iterator<Item = Cut>) -> Vec<Cut> {
    let mut sums: BTreeMap<_, Cut> = BTreeMap::new();
    for cut in all {
        match sums.get_mut(&(cut.kind, cut.architecture)) {
            Some(sum) => {
                sum.before += cut.before;
                sum.after += cut.after;
                sum.loads |= cut.loads;
            }
            None => _ = sums.insert((cut.kind, cut.architecture), cut),
        }
    }
    sums.into_values().collect()
}

/// Compares an archive with what it was cut to.
pub(super) fn check<S: Source + ?Sized, T: Source + ?Sized>(
    before: &S,
    after: &T,
    selection: &Selection,
) -> Result<(), Stop> {
    let (mut old, mut new) = (Window::new(before)?, Window::new(after)?);
    let (one, other) = (members(&mut old)?, members(&mut new)?);
    let places: BTreeMap<u64, u64> =
        one.iter().map(|member| member.at).zip(other.iter().map(|member| member.at)).collect();
    if one.len() != other.len() {
        return Err(refused("there are fewer members"));
    }
    for (was, is) in one.iter().zip(&other) {
        if was.header[..SIZE.start] != is.header[..SIZE.start] {
            return Err(refused("a member is another one"));
        }
        if let Some(width) = width(was) {
            if index(&mut old, was, width, &places)? != read(&mut new, is)? {
                return Err(refused("the index names other members"));
            }
            continue;
        }
        let old_range = was.from..was.from + was.size;
        if super::check::equal(&mut old, old_range, &mut new, is.from..is.from + is.size)? {
            continue;
        }
        let (was, is) = (
            Part { source: before, from: was.from, size: was.size },
            Part { source: after, from: is.from, size: is.size },
        );
        object::check(&mut Window::new(&was)?, &mut Window::new(&is)?, selection)?;
    }
    Ok(())
}
