//! One clock for all processes of this machine, and an alarm on it that a poll can wait for.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Nanoseconds of the kernel's monotonic clock, which every process reads alike.
pub fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CPU time of this process so far, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Sleeps until that moment of [`now_ns`].
pub fn sleep_until(at_ns: u64) {
    std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns())));
}

/// Wakes a poll at a moment: its own timeout counts in milliseconds, which is too coarse for a
/// schedule.
pub struct Alarm(OwnedFd);

impl Alarm {
    /// An alarm that is not set.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?))
    }

    /// Sets it to a moment of [`now_ns`]; one that has passed rings at once.
    pub fn set(&self, at_ns: u64) -> std::io::Result<()> {
        let at = Timespec {
            tv_sec: (at_ns / SECOND_NS).cast_signed(),
            // Nothing but zeros would stop it.
            tv_nsec: (at_ns % SECOND_NS).max(1).cast_signed(),
        };
        let never_again = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Itimerspec { it_interval: never_again, it_value: at };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &time)?;
        Ok(())
    }

    /// What to register.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * SECOND_NS + time.tv_nsec.cast_unsigned()
}

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;
