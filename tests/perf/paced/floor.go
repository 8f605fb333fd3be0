package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// floor is the least that reading streams can cost: it makes one system call a read and keeps nothing.
//
//	paced floor PORT PATH STREAMS SECONDS
//
// It prints the CPU, in seconds, and the number of reads of the time after the first two seconds.
func floor(arguments []string) error {
	port, err := strconv.Atoi(arguments[0])
	if err != nil {
		return err
	}
	streams, err := strconv.Atoi(arguments[2])
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(arguments[3], 64)
	if err != nil {
		return err
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	for i := range streams {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1)
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
			return err
		}
		ask(fd, arguments[1], i)
	}
	return readFor(poll, arguments[1], time.Duration(seconds*float64(time.Second)))
}

func readFor(poll int, path string, length time.Duration) error {
	const unsettled = 2 * time.Second
	var data [16384]byte
	var notes [64]byte
	events := make([]syscall.EpollEvent, 64)
	began, reads, fromCPU, settled := time.Now(), 0, 0.0, false
	for time.Since(began) < unsettled+length {
		if !settled && time.Since(began) > unsettled {
			reads, fromCPU, settled = 0, usedCPU(), true
		}
		for _, event := range events[:epollWait(poll, events, 100_000_000)] {
			n, _, _, _, err := syscall.Recvmsg(int(event.Fd), data[:], notes[:], syscall.MSG_DONTWAIT)
			if err != nil || n == 0 {
				continue
			}
			reads++
			if bytes.HasSuffix(data[:n], []byte("0\r\n\r\n")) {
				ask(int(event.Fd), path, reads)
			}
		}
	}
	fmt.Printf(`{"cpu_s": %g, "reads": %d}`+"\n", usedCPU()-fromCPU, reads)
	return nil
}

// ask sends a request for an answer of 50 to 150 tokens.
func ask(fd int, path string, number int) {
	tokens := 50 + number%101
	body := fmt.Sprintf(`{"model":"m","prompt":[1,2,3,4,5,6,7,8],"max_tokens":%d,"min_tokens":%d,"stream":true}`, tokens, tokens)
	head := fmt.Sprintf("POST %s/v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, len(body))
	if _, err := syscall.Write(fd, []byte(head+body)); err != nil {
		fmt.Fprintln(os.Stderr, "paced: floor:", err)
		os.Exit(1)
	}
}

func usedCPU() float64 {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
