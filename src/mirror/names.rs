//! The names of all projects of an upstream: sorted, in normal form, in one piece of text.
//!
//! There are hundreds of thousands. Each costs its bytes and four more, and nobody makes a copy of them: lists are
//! merged and drawn while they are sent. A list is kept in a file too, so that a restart, or an upstream that is away,
//! does not empty it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::names::NAME_BYTES_MAX;

use super::parse::nonsense;

/// Most names; the largest known list has some 800,000.
const NAMES_MAX: usize = 4_000_000;
/// Most bytes of all names together; the largest known list has some 12 MB.
const TEXT_BYTES_MAX: usize = 128 << 20;
/// The first line of a kept list.
const MAGIC: &str = "twinpi-names-1";

/// Names of projects.
#[derive(Debug)]
pub struct Names {
    text: Box<str>,
    ends: Box<[u32]>,
    digest: Digest,
}

impl Default for Names {
    fn default() -> Self {
        Builder::default().finish()
    }
}

impl Names {
    /// Those among some texts that can be names of projects.
    ///
    /// # Errors
    /// `Kind::BadGateway` if they are too many.
    pub fn of<T: AsRef<str>>(spellings: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut names = Builder::default();
        for spelling in spellings {
            names.add(spelling.as_ref())?;
        }
        Ok(names.finish())
    }
    /// Names that are in normal form already.
    ///
    /// # Errors
    /// `Kind::BadGateway` if they are too many.
    pub fn of_normal<T: AsRef<str>>(normal: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut names = Builder::default();
        for name in normal {
            names.text.push_str(name.as_ref());
            names.close()?;
        }
        Ok(names.finish())
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// The name at a place.
    pub fn get(&self, at: usize) -> Option<&str> {
        self.text.get(range(&self.ends, at)?)
    }
    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map_while(|at| self.get(at))
    }
    /// Whether a name in normal form is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.get(self.partition_point(|known| known < name)) == Some(name)
    }
    /// The places of the names that begin with a prefix in normal form.
    pub fn with_prefix(&self, prefix: &str) -> Range<usize> {
        let start = self.partition_point(|name| name < prefix);
        start..self.partition_point(|name| name < prefix || name.starts_with(prefix))
    }
    /// The places of names that have a text in normal form inside, but do not begin with it; at most `limit`, in order.
    pub fn with_part(&self, part: &str, limit: usize) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        if part.is_empty() {
            return found;
        }
        for start in memchr::memmem::find_iter(self.text.as_bytes(), part) {
            let at = self.ends.partition_point(|end| *end as usize <= start);
            let name = range(&self.ends, at).unwrap_or_default();
            let is_inside = name.start < start && start + part.len() <= name.end;
            let is_new = found.last() != Some(&at);
            if is_inside && is_new && self.get(at).is_some_and(|name| !name.starts_with(part)) {
                found.push(at);
            }
            if limit <= found.len() {
                break;
            }
        }
        found
    }
    /// How many names at the beginning are of a kind that no later one is of.
    fn partition_point(&self, is_before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).is_some_and(&is_before) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }
    /// What tells one list from another.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
    /// The memory that it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

fn range(ends: &[u32], at: usize) -> Option<Range<usize>> {
    let end = *ends.get(at)? as usize;
    let start =
        at.checked_sub(1).and_then(|before| ends.get(before)).map_or(0, |end| *end as usize);
    Some(start..end)
}

/// Gathers names in any order and spelling.
#[derive(Default)]
pub struct Builder {
    text: String,
    ends: Vec<u32>,
    is_sorted_until: usize,
}

impl Builder {
    /// Takes a spelling; one that cannot be the name of a project is passed over.
    ///
    /// # Errors
    /// `Kind::BadGateway` if there are too many.
    pub fn add(&mut self, spelling: &str) -> Result<bool> {
        if !is_name(spelling) {
            return Ok(false);
        }
        let mut is_in_run = false;
        for c in spelling.chars() {
            match c.is_ascii_alphanumeric() {
                true => self.text.push(c.to_ascii_lowercase()),
                false if !is_in_run => self.text.push('-'),
                false => (),
            }
            is_in_run = !c.is_ascii_alphanumeric();
        }
        self.close().map(|()| true)
    }

    /// Ends the name that was just written.
    fn close(&mut self) -> Result<()> {
        if TEXT_BYTES_MAX < self.text.len() || NAMES_MAX <= self.ends.len() {
            return Err(nonsense("it names too many projects"));
        }
        let count = self.ends.len();
        let start = self.ends.last().map_or(0, |end| *end as usize);
        let last = range(&self.ends, count.wrapping_sub(1)).map(|last| &self.text[last]);
        let fresh = &self.text[start..];
        match last.map(|last| last.cmp(fresh)) {
            Some(std::cmp::Ordering::Equal) => {
                self.text.truncate(start);
                return Ok(());
            }
            Some(std::cmp::Ordering::Greater) => (),
            _ if self.is_sorted_until == count => self.is_sorted_until += 1,
            _ => (),
        }
        self.ends.push(u32::try_from(self.text.len()).expect("TEXT_BYTES_MAX is far below"));
        Ok(())
    }

    /// How many were taken.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Sorts them, each once.
    pub fn finish(self) -> Names {
        let Self { text, ends, is_sorted_until } = self;
        let (text, ends) = match is_sorted_until == ends.len() {
            true => (text, ends),
            false => sorted(&text, &ends),
        };
        let mut hasher = Hasher::new();
        hasher.update(text.as_bytes());
        for end in &ends {
            hasher.update(&end.to_le_bytes());
        }
        let digest = hasher.finish().sha256;
        Names { text: text.into_boxed_str(), ends: ends.into_boxed_slice(), digest }
    }
}

fn sorted(text: &str, ends: &[u32]) -> (String, Vec<u32>) {
    let name = |at: u32| range(ends, at as usize).map_or("", |range| &text[range]);
    let mut order: Vec<u32> = (0..u32::try_from(ends.len()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by(|one, other| name(*one).cmp(name(*other)));
    order.dedup_by(|one, other| name(*one) == name(*other));
    let (mut text, mut ends) = (String::with_capacity(text.len()), Vec::with_capacity(order.len()));
    for at in order {
        text.push_str(name(at));
        ends.push(u32::try_from(text.len()).expect("not longer than before"));
    }
    (text, ends)
}

/// Whether a text is the name of a project as PEP 508 has it.
fn is_name(text: &str) -> bool {
    let is_end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A list in a file, with where it came from.
#[derive(Debug)]
pub struct Kept {
    /// The upstream, without credentials.
    pub upstream: String,
    /// The entity tag that it came with.
    pub etag: Option<String>,
    /// When the upstream was seen to have this list.
    pub seen_at: SystemTime,
    /// The names.
    pub names: Names,
}

/// Keeps a list in a file, which is whole or as it was before.
///
/// # Errors
/// `Kind::Internal` if that fails.
pub fn save(path: &Path, upstream: &str, etag: Option<&str>, names: &Names) -> Result<()> {
    let etag = etag.unwrap_or_default();
    if [upstream, etag].iter().any(|text| text.contains(char::is_control)) {
        return Err(Error::internal("a list's address or tag holds control characters"));
    }
    let folder = path.parent().ok_or_else(|| Error::internal("a list has no folder"))?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    {
        let mut out = BufWriter::new(file.as_file_mut());
        write!(out, "{MAGIC}\n{upstream}\n{etag}\n{}\n", names.len())?;
        for name in names.iter() {
            out.write_all(name.as_bytes())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
    file.as_file().sync_data()?;
    file.persist(path).map_err(|e| Error::from(e.error))?;
    Ok(())
}

/// Notes that the upstream still has the list that is kept.
///
/// # Errors
/// `Kind::Internal` if that fails.
pub fn touch(path: &Path) -> Result<()> {
    Ok(File::options().append(true).open(path)?.set_modified(SystemTime::now())?)
}

/// A list that was kept; `None` if there is none or it is not whole.
///
/// # Errors
/// `Kind::Internal` if it cannot be read.
pub fn load(path: &Path) -> Result<Option<Kept>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let meta = file.metadata()?;
    // Each name has its line end here, and its place in the memory of the list.
    let bytes_max = (TEXT_BYTES_MAX + NAMES_MAX + 4 * NAME_BYTES_MAX) as u64;
    let mut text = String::new();
    if bytes_max < meta.len() || file.take(bytes_max).read_to_string(&mut text).is_err() {
        return Ok(None);
    }
    Ok(parse(&text).map(|(upstream, etag, names)| {
        let seen_at = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Kept { upstream, etag, seen_at, names }
    }))
}

fn parse(text: &str) -> Option<(String, Option<String>, Names)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let upstream = lines.next()?.to_owned();
    let etag = Some(lines.next()?.to_owned()).filter(|etag| !etag.is_empty());
    let count: usize = lines.next()?.parse().ok()?;
    let mut names = Builder::default();
    for line in lines {
        if !names.add(line).ok()? {
            return None;
        }
    }
    (names.len() == count).then(|| (upstream, etag, names.finish()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::ProjectName;

    #[test]
    fn names_are_found_by_how_they_begin_and_what_they_have_inside() {
        let names =
            Names::of(["plot", "plotter", "sub-plot", "otter", "plo", "pluto"]).expect("few");
        let all = |places: &mut dyn Iterator<Item = usize>| -> Vec<String> {
            places.filter_map(|at| names.get(at)).map(str::to_owned).collect()
        };
        assert_eq!(all(&mut names.with_prefix("plot")), ["plot", "plotter"]);
        assert_eq!(all(&mut names.with_prefix("")).len(), 6);
        assert_eq!(all(&mut names.with_prefix("zz")).len(), 0);
        assert_eq!(all(&mut names.with_part("plot", 9).into_iter()), ["sub-plot"]);
        assert_eq!(all(&mut names.with_part("otter", 9).into_iter()), ["plotter"]);
        assert_eq!(all(&mut names.with_part("rp", 9).into_iter()).len(), 0, "over two names");
        assert_eq!(names.with_part("l", 2).len(), 2);
    }

    #[test]
    fn names_are_normal_sorted_and_there_once() {
        let names = Names::of([
            "b",
            "A",
            "Zope.Interface",
            "",
            "-x",
            "x_",
            "a b",
            "\u{e9}",
            "..",
            "../x",
            "zope--interface",
            "a",
            "B",
        ])
        .expect("few");
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "b", "zope-interface"]);
        assert!(names.contains("a") && names.contains("zope-interface") && !names.contains("Z"));
        assert!(!names.contains("") && !Names::default().contains("a"));
        assert_eq!((names.len(), names.get(3)), (3, None));
    }

    #[test]
    fn a_name_costs_its_bytes_and_four() {
        const NAMES: usize = 750_000;
        let names =
            Names::of((0..NAMES).map(|i| format!("project-{}", i * 7919 % NAMES))).expect("fits");
        assert_eq!(names.len(), NAMES);
        let text: usize = names.iter().map(str::len).sum();
        assert_eq!(names.size_bytes(), text + 4 * NAMES);
        assert!(names.size_bytes() < 20 * NAMES, "{} bytes", names.size_bytes());
    }

    #[test]
    fn a_list_survives_in_a_file_and_half_of_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("user").join("index.names");
        assert!(load(&path).expect("no file is no failure").is_none());
        let names = Names::of(["one", "two", "three"]).expect("few");
        save(&path, "http://host/simple/", Some("\"tag\""), &names).expect("saves");
        let kept = load(&path).expect("loads").expect("whole");
        assert_eq!(
            (kept.upstream.as_str(), kept.etag.as_deref()),
            ("http://host/simple/", Some("\"tag\""))
        );
        assert_eq!(kept.names.digest(), names.digest());
        assert!(kept.seen_at.elapsed().expect("in the past").as_secs() < 60);
        let whole = fs::read(&path).expect("reads");
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("writes");
            assert!(load(&path).expect("reads").is_none(), "cut at {end}");
        }
        fs::write(&path, b"\xff\xfe").expect("writes");
        assert!(load(&path).expect("reads").is_none());
        assert!(save(&path, "a\nb", None, &names).is_err());
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_set(spellings in prop::collection::vec("[a-cA-C._-]{0,4}", 0..60)) {
            let names = Names::of(&spellings).expect("few");
            let wanted: std::collections::BTreeSet<String> = spellings
                .iter()
                .filter(|text| is_name(text))
                .map(|text| ProjectName::new(text).as_str().to_owned())
                .collect();
            prop_assert!(names.iter().eq(wanted.iter().map(String::as_str)));
            for text in &spellings {
                prop_assert_eq!(names.contains(text), wanted.contains(text));
            }
            let same = Names::of(&wanted).expect("few");
            prop_assert_eq!(same.digest(), names.digest());
        }
    }
}
