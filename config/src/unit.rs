//! Values of `host.ron` with their ranges: read, refused or taken at the place where they stand.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::default;

/// A whole number from MIN to MAX.
pub(crate) fn ranged<'de, D, T, const MIN: u64, const MAX: u64>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    struct Whole<T, const MIN: u64, const MAX: u64>(PhantomData<T>);
    impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Visitor<'_> for Whole<T, MIN, MAX> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number from {MIN} to {MAX}")
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
            let fitting = Some(value).filter(|value| (MIN..=MAX).contains(value));
            fitting
                .and_then(|value| T::try_from(value).ok())
                .ok_or_else(|| E::custom(format!("{value} is not allowed; allowed: {MIN} to {MAX}")))
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
            match u64::try_from(value) {
                Ok(value) => self.visit_u64(value),
                Err(_) => Err(E::custom(format!("{value} is not allowed; allowed: {MIN} to {MAX}"))),
            }
        }
    }
    input.deserialize_any(Whole::<T, MIN, MAX>(PhantomData))
}

/// `None`, or a whole number from MIN to MAX.
pub(crate) fn optional_ranged<'de, D, T, const MIN: u64, const MAX: u64>(
    input: D,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    struct Ranged<T, const MIN: u64, const MAX: u64>(T);
    impl<'de, T: TryFrom<u64>, const MIN: u64, const MAX: u64> Deserialize<'de> for Ranged<T, MIN, MAX> {
        fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            ranged::<D, T, MIN, MAX>(input).map(Self)
        }
    }
    Ok(Option::<Ranged<T, MIN, MAX>>::deserialize(input)?.map(|Ranged(value)| value))
}

/// A number of bytes, or a text such as `"64MiB"`.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes (67108864) or a size (\"64MiB\")")
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse_bytes(text).ok_or_else(|| {
                E::custom(format!(
                    "\"{text}\" is not a size; allowed: bytes as a number, or \"500KiB\", \"64MiB\", \"2GiB\""
                ))
            })
        }
    }
    input.deserialize_any(Bytes)
}

/// As [`bytes`], from MIN to MAX.
pub(crate) fn bytes_between<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(
    input: D,
) -> Result<u64, D::Error> {
    let value = bytes(input)?;
    if (MIN..=MAX).contains(&value) {
        return Ok(value);
    }
    Err(de::Error::custom(format!("{value} bytes are not allowed; allowed: {MIN} to {MAX}")))
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A time such as `"20s"` from 0 to MAX seconds.
pub(crate) fn time<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(
    input: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    let allowed = || format!("allowed: {MIN}s to {MAX}s, written as \"500ms\", \"20s\", \"2m\"");
    let time = humantime_serde::re::humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("\"{text}\" is not a time ({error}); {}", allowed())))?;
    if time < Duration::from_secs(MIN) || time > Duration::from_secs(MAX) {
        return Err(de::Error::custom(format!("\"{text}\" is not allowed; {}", allowed())));
    }
    Ok(time)
}

/// A text that `T` can be made from.
struct Text<T>(T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: FromStr + Allowed,
{
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        text.parse()
            .map(Self)
            .map_err(|_| de::Error::custom(format!("\"{text}\" is not allowed; allowed: {}", T::ALLOWED)))
    }
}

/// What may be written for a type.
pub(crate) trait Allowed {
    const ALLOWED: &'static str;
}

impl Allowed for SocketAddr {
    const ALLOWED: &'static str = "an address and a port such as \"127.0.0.1:25\", \"[::1]:25\"";
}

impl Allowed for IpAddr {
    const ALLOWED: &'static str = "an address such as \"192.0.2.1\", \"2001:db8::1\"";
}

impl Allowed for crate::network::Network {
    const ALLOWED: &'static str = "an address (\"192.0.2.1\", \"::1\") or a network (\"127.0.0.0/8\")";
}

/// A name server: an address, and a port unless it is 53.
struct NameServer(SocketAddr);

impl FromStr for NameServer {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = text.parse().map(|address: IpAddr| SocketAddr::new(address, default::DNS_PORT));
        plain.or_else(|_| text.parse()).map(Self).map_err(|_| ())
    }
}

impl Allowed for NameServer {
    const ALLOWED: &'static str = "an address such as \"9.9.9.9\", \"127.0.0.1:5300\", \"[::1]:53\"";
}

/// One value written as a text.
pub(crate) fn text<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + Allowed,
{
    Text::deserialize(input).map(|Text(value)| value)
}

/// `None`, or one value written as a text.
pub(crate) fn optional_text<'de, D, T>(input: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + Allowed,
{
    Ok(Option::<Text<T>>::deserialize(input)?.map(|Text(value)| value))
}

/// Entries of one list in `host.ron`.
const LIST_MAX: usize = 1024;

/// A list of values written as texts, each at most once.
pub(crate) fn texts<'de, D, T>(input: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + Allowed + PartialEq + fmt::Display,
{
    struct List<T>(PhantomData<T>);
    impl<'de, T: FromStr + Allowed + PartialEq + fmt::Display> Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list [...] of texts, each {}", T::ALLOWED)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Vec<T>, A::Error> {
            let mut list: Vec<T> = Vec::new();
            while let Some(Text(value)) = input.next_element()? {
                if list.contains(&value) {
                    return Err(de::Error::custom(format!("\"{value}\" stands in the list twice")));
                }
                if list.len() == LIST_MAX {
                    return Err(de::Error::custom(format!(
                        "the list is too long; allowed: {LIST_MAX} entries"
                    )));
                }
                list.push(value);
            }
            Ok(list)
        }
    }
    input.deserialize_seq(List(PhantomData))
}

/// Addresses to listen on: at least one.
pub(crate) fn listen<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<SocketAddr>, D::Error> {
    let list = texts(input)?;
    if list.is_empty() {
        return Err(de::Error::custom("the list is empty; allowed: one address or more"));
    }
    Ok(list)
}

/// Name servers; none means those of the system.
pub(crate) fn name_servers<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<SocketAddr>, D::Error> {
    Ok(Vec::<Text<NameServer>>::deserialize(input)?
        .into_iter()
        .map(|Text(NameServer(address))| address)
        .collect())
}

/// A path that is not empty and holds no NUL.
pub(crate) fn path<'de, D: Deserializer<'de>>(input: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(input)?;
    if text.is_empty() || text.contains('\0') {
        return Err(de::Error::custom("allowed: a path that is not empty, \".\" for the home itself"));
    }
    Ok(text.into())
}

/// `None`, or a path.
pub(crate) fn optional_path<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    struct Given(PathBuf);
    impl<'de> Deserialize<'de> for Given {
        fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            path(input).map(Self)
        }
    }
    Ok(Option::<Given>::deserialize(input)?.map(|Given(path)| path))
}

/// Arguments of a program.
pub(crate) fn words<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(input)?;
    if words.len() > LIST_MAX || words.iter().any(|word| word.contains('\0') || word.len() > 4096) {
        return Err(de::Error::custom(format!(
            "allowed: {LIST_MAX} arguments of up to 4096 bytes without NUL"
        )));
    }
    Ok(words)
}

/// A map in the order of the file, each key once.
pub(crate) fn ordered<'de, D, T>(
    input: D,
    key_allowed: fn(&str) -> Result<(), String>,
) -> Result<Vec<(String, T)>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Ordered<T>(fn(&str) -> Result<(), String>, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Ordered<T> {
        type Value = Vec<(String, T)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map { \"name\": kind(...), ... }")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Self::Value, A::Error> {
            let mut map: Vec<(String, T)> = Vec::new();
            while let Some(key) = input.next_key::<String>()? {
                (self.0)(&key).map_err(de::Error::custom)?;
                if map.iter().any(|(other, _)| *other == key) {
                    return Err(de::Error::custom(format!("\"{key}\" stands here twice")));
                }
                if map.len() == LIST_MAX {
                    return Err(de::Error::custom(format!("too many entries; allowed: {LIST_MAX}")));
                }
                let value = input.next_value()?;
                map.push((key, value));
            }
            Ok(map)
        }
    }
    input.deserialize_map(Ordered(key_allowed, PhantomData))
}
