//! Making values and looking into them.

use super::Value;

impl Value {
    /// A `str`.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }
    /// An `int`. Python writers cannot write one below -2^31: check what comes from outside with `from_json`.
    pub fn int(number: i64) -> Self {
        i32::try_from(number).map_or_else(|_| Self::BigInt(number.to_string()), Self::Int)
    }
    /// A `dict` with keys of type `str`.
    pub fn dict<K: Into<String>>(items: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Dict(items.into_iter().map(|(key, value)| (Self::str(key), value)).collect())
    }
    /// A `set` of `str`.
    pub fn set<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Set(items.into_iter().map(Self::str).collect())
    }
    /// A `list`.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }
    /// A `tuple`.
    pub fn tuple(items: impl IntoIterator<Item = Self>) -> Self {
        Self::Tuple(items.into_iter().collect())
    }

    /// An `int` from a sign or none and decimal digits, in the form that encodes canonically.
    pub(super) fn from_digits(text: &str) -> Self {
        if let Ok(number) = text.parse() {
            return Self::Int(number);
        }
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", text.trim_start_matches('+')),
        };
        Self::BigInt(format!("{sign}{}", digits.trim_start_matches('0')))
    }

    /// Whether it is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
    /// The text of a `str`.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }
    /// The flag of a `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }
    /// The number of an `int` that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(i64::from(*number)),
            Self::BigInt(text) => text.parse().ok(),
            _ => None,
        }
    }
    /// The items of a `dict`.
    pub fn as_dict(&self) -> Option<&[(Self, Self)]> {
        if let Self::Dict(items) = self { Some(items) } else { None }
    }
    /// The items of a `dict`, to change.
    pub fn as_dict_mut(&mut self) -> Option<&mut Vec<(Self, Self)>> {
        if let Self::Dict(items) = self { Some(items) } else { None }
    }
    /// The items of a `list` or a `tuple`.
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(items) | Self::Tuple(items) = self { Some(items) } else { None }
    }
    /// The elements of a `set` or a `frozenset`.
    pub fn as_set(&self) -> Option<&[Self]> {
        if let Self::Set(items) | Self::FrozenSet(items) = self { Some(items) } else { None }
    }
    /// The value under a key of a `dict`.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_dict()?.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
    }
    /// The value under a key of a `dict`, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.as_dict_mut()?
            .iter_mut()
            .find(|(k, _)| k.as_str() == Some(key))
            .map(|(_, value)| value)
    }
    /// Puts a value under a key of a `dict`; gives the one that was there. Nothing happens to what is no dict.
    pub fn insert(&mut self, key: &str, value: Self) -> Option<Self> {
        if let Some(held) = self.get_mut(key) {
            return Some(std::mem::replace(held, value));
        }
        self.as_dict_mut()?.push((Self::str(key), value));
        None
    }
    /// Takes a key out of a `dict`; gives the value that was there.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let items = self.as_dict_mut()?;
        let place = items.iter().position(|(k, _)| k.as_str() == Some(key))?;
        Some(items.remove(place).1)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::str(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::int(number)
    }
}
