//! The variables a rule sets for a session.

/// Variables by name, in the order of their first assignment. Names are case-sensitive; the last assignment wins, as
/// with setenv. None of them is secret by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variables {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Variables {
    /// The value of a variable; `None`: it is not set. Set and empty is another thing.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: Vec<u8>, value: Vec<u8>) {
        match self.entries.iter_mut().find(|(own, _)| *own == name) {
            Some((_, old)) => *old = value,
            None => self.entries.push((name, value)),
        }
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &[u8]) {
        self.entries.retain(|(own, _)| own != name);
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }
}

impl FromIterator<(Vec<u8>, Vec<u8>)> for Variables {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>>(assignments: I) -> Self {
        let mut variables = Self::default();
        assignments.into_iter().for_each(|(name, value)| variables.set(name, value));
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_wins_and_the_first_gives_the_place() {
        let assignments = [("A", "1"), ("B", ""), ("a", "2"), ("A", "3")];
        let variables: Variables = assignments
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        assert_eq!(variables.get("A"), Some(&b"3"[..]));
        assert_eq!(variables.get("a"), Some(&b"2"[..]));
        assert_eq!(variables.get("B"), Some(&b""[..]));
        assert_eq!(variables.get("b"), None);
        let names: Vec<&[u8]> = variables.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"A", b"B", b"a"]);
    }
}
