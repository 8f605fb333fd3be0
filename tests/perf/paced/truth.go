package main

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

const (
	mostRequests = 1 << 20
	mostTokens   = 24 << 20
)

// row is one request as the server saw it. Instants are nanoseconds of CLOCK_MONOTONIC.
type row struct {
	id        uint64
	arrivedNs int64 // when the kernel had received it
	readNs    int64 // when it was read
	first     int64 // where its tokens' instants begin
	tokens    int64 // how many were written so far
}

// handle names a row; it is of no use any more once the truth has been reset.
type handle struct {
	index int
	round int64
}

// truth keeps what happened, up to a bound; memory that was never written to costs nothing.
type truth struct {
	rows   []row
	wrotes []int64 // the instant just before the write of each token; each request has its tokens' places from its beginning
	used   int
	lost   int64 // requests for which there was no room
	queued int64 // writes that the socket did not take at once
	round  int64
}

func newTruth() *truth {
	return &truth{rows: make([]row, 0, mostRequests), wrotes: make([]int64, mostTokens)}
}

func (t *truth) begin(a asked, arrivedNs, readNs int64) handle {
	if len(t.rows) == mostRequests || t.used+a.tokens > mostTokens {
		t.lost++
		return handle{0, -1}
	}
	t.rows = append(t.rows, row{a.id, arrivedNs, readNs, int64(t.used), 0})
	t.used += a.tokens
	return handle{len(t.rows) - 1, t.round}
}

// wrote notes that the request's tokens from a place on are being written now, unless it has been forgotten since.
func (t *truth) wrote(h handle, from, n int, nowNs int64) {
	if h.round != t.round {
		return
	}
	r := &t.rows[h.index]
	for i := r.first + int64(from); n > 0; i, n = i+1, n-1 {
		t.wrotes[i] = nowNs
		r.tokens++
	}
}

func (t *truth) reset() {
	t.round++
	t.rows, t.used, t.lost, t.queued = t.rows[:0], 0, 0, 0
}

// bytes is the whole truth, little-endian as the machine: rows, instants, lost and queued as int64, then the rows, then the
// instants.
func (t *truth) bytes() []byte {
	size := int(unsafe.Sizeof(row{}))
	out := make([]byte, 0, 32+len(t.rows)*size+t.used*8)
	for _, n := range []int64{int64(len(t.rows)), int64(t.used), t.lost, t.queued} {
		out = binary.NativeEndian.AppendUint64(out, uint64(n))
	}
	if len(t.rows) > 0 {
		out = append(out, unsafe.Slice((*byte)(unsafe.Pointer(&t.rows[0])), len(t.rows)*size)...)
		out = append(out, unsafe.Slice((*byte)(unsafe.Pointer(&t.wrotes[0])), t.used*8)...)
	}
	return out
}

func send(fd int, data []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall6(
		syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)), syscall.MSG_NOSIGNAL, 0, 0,
	)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}
