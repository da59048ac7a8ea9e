//! Which servers main and the replica are, and whether they belong together.
//!
//! Pure. A cluster is told by its system identifier, which every copy of it keeps; which of its histories a server is
//! on, by the timeline, which changes with each promotion. What cannot be told is never held against a server.

use serde::{Deserialize, Serialize};

use crate::entry::Seq;
use crate::lsn::Lsn;

/// A main that replay has talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MainServer {
    pub system_identifier: u64,
    pub timeline: u32,
    /// The timelines before its own, if main lets us know.
    pub history: Option<History>,
}

/// The timelines that led to a server's own, each with the place where it was left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(Vec<(u32, Lsn)>);

impl History {
    /// Reads a `.history` file: timeline, switch point and reason in each line
    /// (<https://www.postgresql.org/docs/15/continuous-archiving.html#BACKUP-TIMELINES>).
    pub fn parse(text: &str) -> History {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        History(text.lines().filter_map(line).collect())
    }

    /// Where a timeline was left.
    fn end(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|(before, _)| *before == timeline).map(|&(_, end)| end)
    }
}

/// The replica, as it describes itself; `None`: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaServer {
    pub system_identifier: Option<u64>,
    pub timeline: Option<u32>,
    pub in_recovery: bool,
    pub replayed: Option<Lsn>,
}

/// Whether what the replica shows is a beginning of main's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    #[default]
    Follows,
    /// Main was promoted and the replica has not gone over to the new timeline: what it shows is old, and true.
    LeftBehind { replica: u32, main: u32 },
    /// It is no standby any more.
    Promoted,
    /// A copy of another cluster.
    Foreign { replica: u64, main: u64 },
    /// It has replayed what main's history does not hold.
    Diverged(&'static str),
    /// Between what it has of the site's entries and what the buffer still keeps there are some that it does not show.
    TooOld { has: Seq, kept: Seq },
}

impl Standing {
    /// As console and metrics say it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Standing::Follows => "follows",
            Standing::LeftBehind { .. } => "left behind",
            Standing::Promoted => "promoted",
            Standing::Foreign { .. } => "foreign",
            Standing::Diverged(_) => "diverged",
            Standing::TooOld { .. } => "too old",
        }
    }

    /// Whether its rows may be shown.
    pub fn is_true(&self) -> bool {
        matches!(self, Standing::Follows | Standing::LeftBehind { .. })
    }

    /// What is wrong; nothing when all is well.
    pub fn told(&self) -> Option<String> {
        match self {
            Standing::Follows => None,
            Standing::LeftBehind { replica, main } => Some(format!(
                "main went over to timeline {main}, the replica is still on {replica}: point it to the new main"
            )),
            Standing::Promoted => Some(
                "the site's replica was promoted: it is no standby any more. Make it anew with pg_rewind or pg_basebackup"
                    .to_owned(),
            ),
            Standing::Foreign { replica, main } => Some(format!(
                "the site's replica is a copy of another cluster (system identifier {replica}, main's is {main}): make \
                 it anew from main with pg_basebackup, or correct [replica] url"
            )),
            Standing::Diverged(why) => Some(format!(
                "the site's replica holds a history that main does not have ({why}): make it anew with pg_rewind or pg_basebackup"
            )),
            Standing::TooOld { has, kept } => Some(format!(
                "the site's replica was made from a state that is too old: it has this site's entries up to {has}, and the \
                 buffer keeps those from {kept} on. Wait until it has replayed so far, or make it anew with pg_basebackup"
            )),
        }
    }
}

/// Judges a replica. `cluster`: the system identifier of the main that this site belongs to, when that is known.
/// `main`: the server that replay is connected to now.
pub fn judge(replica: &ReplicaServer, cluster: Option<u64>, main: Option<&MainServer>) -> Standing {
    if let (Some(replica), Some(main)) = (replica.system_identifier, cluster)
        && replica != main
    {
        return Standing::Foreign { replica, main };
    }
    if !replica.in_recovery {
        return Standing::Promoted;
    }
    let (Some(main), Some(timeline)) = (main, replica.timeline) else { return Standing::Follows };
    if Some(main.system_identifier) != cluster || timeline == main.timeline {
        return Standing::Follows;
    }
    if timeline > main.timeline {
        return Standing::Diverged("it follows a later timeline");
    }
    let left_behind = Standing::LeftBehind { replica: timeline, main: main.timeline };
    let Some(history) = &main.history else { return left_behind };
    match (history.end(timeline), replica.replayed) {
        (None, _) => Standing::Diverged("its timeline does not lead to main's"),
        (Some(end), Some(replayed)) if replayed > end => {
            Standing::Diverged("it went past the place where main was promoted")
        }
        (Some(_), _) => left_behind,
    }
}

/// Which main the site's entries belong to, and what happened to it; kept beside the entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainRecord {
    pub system_identifier: u64,
    pub timeline: u32,
    /// The site's entries that main had when that was noted last, at least.
    #[serde(default)]
    pub applied: Seq,
    /// Oldest first.
    #[serde(default)]
    pub events: Vec<MainEvent>,
}

/// Something worth remembering about main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainEvent {
    /// RFC 3339, UTC.
    pub at: String,
    pub by: String,
    pub what: String,
}

/// How many events are kept.
const EVENTS_MAX: usize = 100;

impl MainRecord {
    /// Remembers an event, and forgets the oldest of too many.
    pub fn remember(&mut self, event: MainEvent) {
        self.events.push(event);
        let surplus = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn main(timeline: u32, history: Option<&str>) -> MainServer {
        MainServer { system_identifier: 7, timeline, history: history.map(History::parse) }
    }

    fn replica(timeline: u32, replayed: &str) -> ReplicaServer {
        ReplicaServer {
            system_identifier: Some(7),
            timeline: Some(timeline),
            in_recovery: true,
            replayed: Some(replayed.parse().unwrap()),
        }
    }

    const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n";

    #[test]
    fn a_standby_is_judged_by_where_the_timelines_part() {
        let judged = |timeline, replayed| judge(&replica(timeline, replayed), Some(7), Some(&main(3, Some(HISTORY))));
        assert_eq!(judged(3, "0/9000000"), Standing::Follows);
        assert_eq!(judged(2, "0/5000000"), Standing::LeftBehind { replica: 2, main: 3 });
        assert!(matches!(judged(2, "0/5000001"), Standing::Diverged(_)));
        assert!(matches!(judged(1, "0/4000000"), Standing::Diverged(_)));
        assert!(matches!(judged(4, "0/1000000"), Standing::Diverged(_)));
    }

    #[test]
    fn what_cannot_be_told_is_not_held_against_it() {
        let left = Standing::LeftBehind { replica: 2, main: 3 };
        assert_eq!(judge(&replica(2, "0/9000000"), Some(7), Some(&main(3, None))), left);
        assert_eq!(judge(&replica(2, "0/9000000"), Some(7), None), Standing::Follows);
        let silent = ReplicaServer { in_recovery: true, ..ReplicaServer::default() };
        assert_eq!(judge(&silent, Some(7), Some(&main(3, Some(HISTORY)))), Standing::Follows);
        // Main is another cluster, and nobody has accepted it: its timelines say nothing.
        assert_eq!(
            judge(&replica(2, "0/9000000"), Some(7), Some(&MainServer { system_identifier: 8, ..main(1, None) })),
            Standing::Follows
        );
    }

    #[test]
    fn other_clusters_and_promoted_ones_are_not_shown() {
        assert_eq!(judge(&replica(1, "0/1"), Some(8), None), Standing::Foreign { replica: 7, main: 8 });
        let promoted = ReplicaServer { in_recovery: false, ..replica(1, "0/1") };
        assert_eq!(judge(&promoted, Some(7), None), Standing::Promoted);
        for standing in [judge(&promoted, Some(7), None), judge(&promoted, Some(8), None), Standing::Diverged("x")] {
            assert!(!standing.is_true() && standing.told().is_some(), "{standing:?}");
        }
    }

    #[test]
    fn events_are_bounded() {
        let mut record = MainRecord::default();
        for n in 0..150 {
            record.remember(MainEvent { at: String::new(), by: String::new(), what: n.to_string() });
        }
        assert_eq!((record.events.len(), record.events[0].what.as_str()), (100, "50"));
    }
}
