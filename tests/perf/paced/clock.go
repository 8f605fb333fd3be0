package main

import (
	"syscall"
	"time"
	"unsafe"
)

const (
	clockMonotonic = 1
	clockRealtime  = 0
	epollPwait2    = 441
	setTimerSlack  = 29
)

// clock tells CLOCK_MONOTONIC, which Python's time.monotonic_ns tells too, by Go's own monotonic time and their offset.
type clock struct {
	base              time.Time
	baseNs            int64
	wallNs, checkedNs int64
}

const checkEveryNs = 100_000_000

func newClock() clock {
	// Sleep to the microsecond and not to the usual 50.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1000, 0)
	c := clock{base: time.Now(), checkedNs: -checkEveryNs}
	c.baseNs = c.ahead(clockMonotonic, 100)
	return c
}

func (c *clock) now() int64 { return c.baseNs + int64(time.Since(c.base)) }

// fromWall turns an instant of CLOCK_REALTIME, which the kernel's receive timestamps are of, into one of CLOCK_MONOTONIC.
func (c *clock) fromWall(wallNs int64) int64 {
	if now := c.now(); now-c.checkedNs > checkEveryNs {
		c.wallNs, c.checkedNs = c.ahead(clockRealtime, 5), now
	}
	return wallNs - c.wallNs + c.baseNs
}

// ahead is how far a clock is ahead of the time since base: the tightest of some readings, as between any two the processor may
// be taken away.
func (c *clock) ahead(of uintptr, readings int) int64 {
	found, tightest := int64(0), int64(1)<<62
	for range readings {
		before := time.Since(c.base)
		at := read(of)
		if width := int64(time.Since(c.base) - before); width < tightest {
			found, tightest = at-int64(before)-width/2, width
		}
	}
	return found
}

func read(clock uintptr) int64 {
	var at syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&at)), 0)
	return at.Nano()
}

// epollWait waits for nanoseconds (-1: for ever); where the kernel cannot, for milliseconds, rounded up.
func epollWait(poll int, events []syscall.EpollEvent, timeoutNs int64) int {
	var timeout *syscall.Timespec
	if timeoutNs >= 0 {
		at := syscall.NsecToTimespec(timeoutNs)
		timeout = &at
	}
	n, _, errno := syscall.Syscall6(
		epollPwait2, uintptr(poll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(timeout)), 0, 0,
	)
	if errno == 0 {
		return int(n)
	}
	if errno != syscall.ENOSYS {
		return 0
	}
	ms := -1
	if timeoutNs >= 0 {
		ms = int((timeoutNs + 999_999) / 1_000_000)
	}
	waited, err := syscall.EpollWait(poll, events, ms)
	if err != nil {
		return 0
	}
	return waited
}

func raiseOpenFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}
