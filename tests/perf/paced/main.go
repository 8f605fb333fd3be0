// Command paced is a server that streams tokens at a stated pace and knows when it wrote each of them.
//
// It answers as an OpenAI-compatible engine does, without computing anything. The pace is in the request's path:
//
//	POST /MODE/TTFT/ITL/EVENTS/v1/completions        (or /v1/chat/completions)
//
// TTFT and ITL are in milliseconds; EVENTS tokens, an event each, go into one write, and ITL is the time between writes. MODE is
//
//	even     the first write TTFT after the request was read, then every ITL
//	spread   the same, TTFT longer by a random part of ITL, so that streams are not in step
//	step     writes at multiples of ITL only, all streams at once, as an engine steps its batch
//
// The last token's write also holds the usage and [DONE]. GET /truth says what happened, POST /truth/reset forgets it.
// One thread does everything: it sleeps in epoll until a request comes or a token is due. It prints its port and
// ends when its standard input is closed. Linux only.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
)

// quantumNs is how long the thread sleeps at least while nothing is to be read: what falls due meanwhile goes out together.
const quantumNs = 200_000

func main() {
	if len(os.Args) == 6 && os.Args[1] == "floor" {
		if err := floor(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "paced: floor:", err)
			os.Exit(1)
		}
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	runtime.LockOSThread()
	server, port, err := listen()
	if err != nil {
		fmt.Fprintln(os.Stderr, "paced:", err)
		os.Exit(1)
	}
	fmt.Println(port)
	server.run()
}

// server is the one loop's state.
type server struct {
	listener int
	poll     int
	clock    clock
	truth    *truth
	conns    map[int32]*conn
	due      dueHeap
	random   uint64
	scratch  []byte
}

func listen() (*server, int, error) {
	raiseOpenFiles()
	listener, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	if err := syscall.Bind(listener, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, 0, err
	}
	if err := syscall.Listen(listener, 4096); err != nil {
		return nil, 0, err
	}
	name, err := syscall.Getsockname(listener)
	if err != nil {
		return nil, 0, err
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, 0, err
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(listener)}
	if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, listener, &event); err != nil {
		return nil, 0, err
	}
	made := &server{listener: listener, poll: poll, clock: newClock(), truth: newTruth(), conns: map[int32]*conn{}, random: 1}
	return made, name.(*syscall.SockaddrInet4).Port, nil
}

func (s *server) run() {
	events := make([]syscall.EpollEvent, 1024)
	for {
		n := s.wait(events)
		for i := range events[:n] {
			s.ready(&events[i])
		}
		s.writeDue()
	}
}

// wait sleeps until something can be read or the next write is due, for a quantum at least.
func (s *server) wait(events []syscall.EpollEvent) int {
	timeoutNs := int64(-1)
	if len(s.due) > 0 {
		timeoutNs = max(s.due[0].dueNs-s.clock.now(), quantumNs)
	}
	return epollWait(s.poll, events, timeoutNs)
}

func (s *server) ready(event *syscall.EpollEvent) {
	if int(event.Fd) == s.listener {
		s.accept()
		return
	}
	c := s.conns[event.Fd]
	if c == nil {
		return
	}
	if event.Events&syscall.EPOLLOUT != 0 {
		s.flush(c)
	}
	if !c.closed && event.Events&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR|syscall.EPOLLRDHUP) != 0 {
		s.read(c)
	}
}

func (s *server) accept() {
	for {
		fd, _, err := syscall.Accept4(s.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1)
		event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd)}
		if syscall.EpollCtl(s.poll, syscall.EPOLL_CTL_ADD, fd, &event) != nil {
			_ = syscall.Close(fd)
			continue
		}
		s.conns[int32(fd)] = &conn{fd: fd, place: -1}
	}
}

// writeDue writes every token whose time has come.
func (s *server) writeDue() {
	now := s.clock.now()
	for len(s.due) > 0 && s.due[0].dueNs <= now {
		c := s.due[0]
		s.step(c)
		if c.place < 0 {
			continue
		}
		if c.written == c.asked.tokens {
			s.due.remove(c)
			s.next(c)
		} else {
			c.dueNs = s.after(c)
			s.due.sink(0)
		}
	}
}

func (s *server) close(c *conn) {
	if c.place >= 0 {
		s.due.remove(c)
	}
	c.closed = true
	delete(s.conns, int32(c.fd))
	_ = syscall.Close(c.fd)
}
