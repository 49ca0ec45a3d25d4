//! One pass over wire bytes that checks every rule and builds nothing.

use crate::error::{Error, Result};

/// How deep containers may nest; JSON from clients is cut at 128 by its parser, an entry adds less than ten.
pub const DEPTH_MAX: u8 = 200;

/// The most digits of an integer; Python refuses to read longer ones.
const DIGITS_MAX: usize = 4300;

/// What a list's item takes at least: the opcode and 4 bytes of its index, a value, the opcode that puts it.
const LIST_ITEM_BYTES_MIN: usize = 7;

pub(super) const TUPLE: u8 = b'@';
pub(super) const BYTES: u8 = b'A';
pub(super) const FALSE: u8 = b'C';
pub(super) const FLOAT: u8 = b'D';
pub(super) const FROZENSET: u8 = b'E';
pub(super) const INT: u8 = b'F';
const LONG: u8 = b'G';
pub(super) const DIGITS: u8 = b'H';
const LONG_DIGITS: u8 = b'I';
pub(super) const DICT: u8 = b'J';
pub(super) const LIST: u8 = b'K';
pub(super) const NONE: u8 = b'L';
const OLD_BYTES: u8 = b'M';
pub(super) const STR: u8 = b'N';
pub(super) const SET: u8 = b'O';
pub(super) const PUT: u8 = b'P';
pub(super) const STOP: u8 = b'Q';
pub(super) const TRUE: u8 = b'R';
const OLD_STR: u8 = b'S';
pub(super) const COMPLEX: u8 = b'T';

/// What follows an opcode.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// So many bytes.
    Fixed(usize),
    /// A length of 4 bytes, and as many bytes.
    Sized,
}

/// What follows this opcode; `None` if there is no such opcode.
pub(super) fn operand(code: u8) -> Option<Operand> {
    Some(match code {
        FALSE | DICT | NONE | PUT | STOP | TRUE => Operand::Fixed(0),
        TUPLE | FROZENSET | INT | LONG | LIST | SET => Operand::Fixed(4),
        FLOAT => Operand::Fixed(8),
        COMPLEX => Operand::Fixed(16),
        BYTES | DIGITS | LONG_DIGITS | OLD_BYTES | STR | OLD_STR => Operand::Sized,
        _ => return None,
    })
}

/// Reads the 4 bytes of a length or a count, which must not be negative.
pub(super) fn length(bytes: [u8; 4]) -> Option<usize> {
    usize::try_from(i32::from_be_bytes(bytes)).ok()
}

/// The type of a value, as Python tells types apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopType {
    /// `None`
    None,
    /// `bool`
    Bool,
    /// `int` of any size
    Int,
    /// `float`
    Float,
    /// `complex`
    Complex,
    /// `bytes`
    Bytes,
    /// `str`
    Str,
    /// `list`
    List,
    /// `tuple`
    Tuple,
    /// `dict`
    Dict,
    /// `set`
    Set,
    /// `frozenset`
    FrozenSet,
}

/// The type of one encoded value, after checking all of it.
///
/// # Errors
/// `Kind::Invalid` if the bytes are not exactly one value.
pub fn top_type(bytes: &[u8]) -> Result<TopType> {
    let mut walker = Walker::new(bytes);
    walker.skip_leaves();
    while let Some(op) = walker.read()? {
        walker.apply(&op)?;
        walker.skip_leaves();
    }
    walker.finish().map(|item| item.kind)
}

/// A value without parts, still in the bytes.
pub(super) enum Leaf<'a> {
    None,
    Bool(bool),
    Int(i32),
    /// A sign or none, and digits.
    Digits(&'a str),
    Float(f64),
    Complex(f64, f64),
    Bytes(&'a [u8]),
    Str(&'a str),
}

/// One step of the machine.
pub(super) enum Op<'a> {
    Leaf(Leaf<'a>),
    Dict,
    List(usize),
    Group(TopType, usize),
    Put,
    Stop,
}

/// A value on the stack. It reaches to where the next one begins: what lies on the stack leaves no gaps.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub start: usize,
    pub kind: TopType,
    /// The number of an integer of 4 bytes; the length of a list.
    number: Option<i32>,
    depth: u8,
    is_hashable: bool,
}

impl Item {
    /// The number if this is an integer of 4 bytes.
    pub fn int(&self) -> Option<i32> {
        self.number.filter(|_| self.kind == TopType::Int)
    }
}

/// The stack machine over spans of bytes.
pub(super) struct Walker<'a> {
    bytes: &'a [u8],
    begin: usize,
    at: usize,
    stack: Vec<Item>,
    listed: usize,
}

impl<'a> Walker<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, begin: 0, at: 0, stack: Vec::with_capacity(16), listed: 0 }
    }

    /// The stack as it is before `apply`.
    pub fn stack(&self) -> &[Item] {
        &self.stack
    }

    /// Where the step that was read last begins: the end of the topmost value before `apply`.
    pub fn begin(&self) -> usize {
        self.begin
    }

    /// Where the step that was read last ends.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Reads the next step; `None` at the end of the bytes.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is none.
    pub fn read(&mut self) -> Result<Option<Op<'a>>> {
        let Some(&code) = self.bytes.get(self.at) else { return Ok(None) };
        self.begin = self.at;
        self.at += 1;
        let operand = match operand(code) {
            Some(Operand::Fixed(0)) => &[],
            Some(Operand::Fixed(size)) => self.take(size)?,
            Some(Operand::Sized) => {
                let size = self.count()?;
                self.take(size)?
            }
            None => return Err(self.bad("an unknown opcode")),
        };
        self.op(code, operand).map(Some)
    }

    /// Takes the plain values that come next at once, for those who look at containers only. What is not in order is
    /// left for `read` to say.
    pub fn skip_leaves(&mut self) {
        while let Some((code, rest)) = self.bytes[self.at..].split_first() {
            let (kind, number, size) = match *code {
                INT => match rest.first_chunk() {
                    Some(number) => (TopType::Int, Some(i32::from_be_bytes(*number)), 4),
                    None => return,
                },
                STR => match rest.first_chunk().and_then(|size| length(*size)) {
                    Some(size) if is_text(rest.get(4..4 + size)) => (TopType::Str, None, 4 + size),
                    _ => return,
                },
                NONE => (TopType::None, None, 0),
                TRUE | FALSE => (TopType::Bool, None, 0),
                _ => return,
            };
            self.stack.push(Item { start: self.at, kind, number, depth: 0, is_hashable: true });
            self.at += 1 + size;
        }
    }

    fn op(&self, code: u8, operand: &'a [u8]) -> Result<Op<'a>> {
        let leaf = match code {
            DICT => return Ok(Op::Dict),
            PUT => return Ok(Op::Put),
            STOP => return Ok(Op::Stop),
            LIST => return Ok(Op::List(self.length(operand)?)),
            TUPLE => return Ok(Op::Group(TopType::Tuple, self.length(operand)?)),
            SET => return Ok(Op::Group(TopType::Set, self.length(operand)?)),
            FROZENSET => return Ok(Op::Group(TopType::FrozenSet, self.length(operand)?)),
            NONE => Leaf::None,
            TRUE => Leaf::Bool(true),
            FALSE => Leaf::Bool(false),
            INT | LONG => Leaf::Int(i32::from_be_bytes(array(operand))),
            FLOAT => Leaf::Float(f64::from_be_bytes(array(operand))),
            COMPLEX => Leaf::Complex(
                f64::from_be_bytes(array(&operand[..8])),
                f64::from_be_bytes(array(&operand[8..])),
            ),
            BYTES | OLD_BYTES => Leaf::Bytes(operand),
            DIGITS | LONG_DIGITS => Leaf::Digits(self.digits(operand)?),
            _ => Leaf::Str(self.text(operand)?),
        };
        Ok(Op::Leaf(leaf))
    }

    /// Checks the step against the stack, and takes it.
    ///
    /// # Errors
    /// `Kind::Invalid` if the stack does not allow it, or a limit is passed.
    pub fn apply(&mut self, op: &Op<'a>) -> Result<()> {
        let kind = match op {
            Op::Leaf(leaf) => {
                self.push_leaf(leaf);
                return Ok(());
            }
            Op::Put => return self.put(),
            Op::Group(kind, count) => return self.group(*kind, *count),
            Op::Stop => return Err(self.bad("a stop inside a value")),
            Op::Dict => TopType::Dict,
            Op::List(length) => {
                self.listed = self.listed.saturating_add(*length);
                if self.listed > self.bytes.len() / LIST_ITEM_BYTES_MIN {
                    return Err(self.bad("a list longer than the bytes can hold"));
                }
                TopType::List
            }
        };
        let number = if let Op::List(length) = op { i32::try_from(*length).ok() } else { None };
        self.stack.push(Item { start: self.begin, kind, number, depth: 1, is_hashable: false });
        Ok(())
    }

    fn push_leaf(&mut self, leaf: &Leaf<'a>) {
        let (kind, number) = match leaf {
            Leaf::None => (TopType::None, None),
            Leaf::Bool(_) => (TopType::Bool, None),
            Leaf::Int(number) => (TopType::Int, Some(*number)),
            Leaf::Digits(text) => (TopType::Int, text.parse().ok()),
            Leaf::Float(_) => (TopType::Float, None),
            Leaf::Complex(..) => (TopType::Complex, None),
            Leaf::Bytes(_) => (TopType::Bytes, None),
            Leaf::Str(_) => (TopType::Str, None),
        };
        self.stack.push(Item { start: self.begin, kind, number, depth: 0, is_hashable: true });
    }

    fn group(&mut self, kind: TopType, count: usize) -> Result<()> {
        let Some(from) = self.stack.len().checked_sub(count) else {
            return Err(self.bad("a tuple or set with more elements than there are"));
        };
        let (mut depth, mut is_hashable, mut start) = (0, true, self.begin);
        if let Some(first) = self.stack[from..].first() {
            start = first.start;
        }
        for element in &self.stack[from..] {
            depth = depth.max(element.depth);
            is_hashable &= element.is_hashable;
        }
        if kind != TopType::Tuple && !is_hashable {
            return Err(self.bad("a set with an element that Python cannot hash"));
        }
        is_hashable &= kind != TopType::Set;
        let depth = self.deeper(depth)?;
        self.stack.truncate(from);
        self.stack.push(Item { start, kind, number: None, depth, is_hashable });
        Ok(())
    }

    fn put(&mut self) -> Result<()> {
        let [.., container, key, value] = self.stack.as_slice() else {
            return Err(self.bad("an item without its dict or list"));
        };
        let depth = container.depth.max(self.deeper(value.depth.max(key.depth))?);
        match container.kind {
            TopType::Dict if key.is_hashable => {}
            TopType::List => {
                let length = container.number.unwrap_or(0);
                if !key.int().is_some_and(|index| (0..length).contains(&index)) {
                    return Err(self.bad("an item at a place that its list has not"));
                }
            }
            TopType::Dict => return Err(self.bad("a key that Python cannot hash")),
            _ => return Err(self.bad("an item for what is no dict or list")),
        }
        self.stack.truncate(self.stack.len() - 2);
        if let Some(container) = self.stack.last_mut() {
            container.depth = depth;
        }
        Ok(())
    }

    /// The one value that is left at the end.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is none or several.
    pub fn finish(&self) -> Result<Item> {
        match self.stack.as_slice() {
            [item] => Ok(*item),
            [] => Err(self.bad("the end without a value")),
            _ => Err(self.bad("the end with values left over")),
        }
    }

    fn deeper(&self, depth: u8) -> Result<u8> {
        if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(self.bad("values nested too deep")) }
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.saturating_add(size));
        let bytes = bytes.ok_or_else(|| self.bad("an operand that is cut off"))?;
        self.at += size;
        Ok(bytes)
    }

    fn count(&mut self) -> Result<usize> {
        let operand = self.take(4)?;
        self.length(operand)
    }

    fn length(&self, operand: &[u8]) -> Result<usize> {
        length(array(operand)).ok_or_else(|| self.bad("a negative length"))
    }

    fn text(&self, operand: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(operand).map_err(|_| self.bad("a text that is not UTF-8"))
    }

    fn digits(&self, operand: &'a [u8]) -> Result<&'a str> {
        let digits = match operand {
            [b'+' | b'-', digits @ ..] => digits,
            digits => digits,
        };
        let is_number =
            (1..=DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        if is_number { self.text(operand) } else { Err(self.bad("an integer that is none")) }
    }

    /// An error that says where.
    #[cold]
    pub fn bad(&self, what: &str) -> Error {
        Error::invalid(format!("{what} at byte {} of encoded data", self.begin))
    }
}

fn is_text(bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
}

/// The operand as an array; opcodes with a fixed operand come with as many bytes.
fn array<const N: usize>(operand: &[u8]) -> [u8; N] {
    operand.try_into().expect("the opcode's table says this length")
}
