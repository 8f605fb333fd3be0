package main

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"syscall"
)

// asked is what a request wants: how many tokens, in which form, at what pace.
type asked struct {
	id            uint64
	tokens        int
	chat          bool
	stream        bool
	usage         bool
	mode          string
	ttftNs, itlNs int64
	events        int
	promptTokens  int
}

const idsInKey = 6

// message is one HTTP request: where it ends in the buffer, and what it says.
type message struct {
	method, path string
	body         []byte
	closes       bool
}

// parse takes the first whole request off the buffer; size 0 while it has not all come, -1 for what is no request.
func parse(buffer []byte) (message, int) {
	end := bytes.Index(buffer, []byte("\r\n\r\n"))
	if end < 0 {
		return message{}, 0
	}
	lines := strings.Split(string(buffer[:end]), "\r\n")
	words := strings.Split(lines[0], " ")
	if len(words) != 3 {
		return message{}, -1
	}
	found := message{method: words[0], path: words[1]}
	length := 0
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "content-length":
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		case "connection":
			found.closes = strings.EqualFold(strings.TrimSpace(value), "close")
		case "transfer-encoding":
			return message{}, -1
		}
	}
	size := end + 4 + length
	if length < 0 || len(buffer) < size {
		return message{}, min(length, 0)
	}
	found.body = buffer[end+4 : size]
	return found, size
}

// want reads the pace from the path and the rest from the body, which is searched and not parsed: the benchmarks' prompts hold
// no keys. False where the path names no pace.
func want(m message) (asked, bool) {
	parts := strings.Split(strings.TrimPrefix(m.path, "/"), "/")
	if len(parts) < 6 || !strings.HasSuffix(m.path, "/completions") {
		return asked{}, false
	}
	ttft, err := strconv.ParseFloat(parts[1], 64)
	itl, err2 := strconv.ParseFloat(parts[2], 64)
	events, err3 := strconv.Atoi(parts[3])
	if err != nil || err2 != nil || err3 != nil || events < 1 || !isMode(parts[0]) {
		return asked{}, false
	}
	a := asked{
		mode: parts[0], ttftNs: int64(ttft * 1e6), itlNs: int64(itl * 1e6), events: events,
		chat:   strings.HasSuffix(m.path, "/chat/completions"),
		stream: has(m.body, "stream", "true"), usage: has(m.body, "include_usage", "true"),
	}
	a.id, a.promptTokens = prompt(m.body)
	a.tokens = max(1, number(m.body, "max_tokens", number(m.body, "max_completion_tokens", 16)))
	return a, true
}

func isMode(name string) bool { return name == "even" || name == "spread" || name == "step" }

// after gives what follows a key of the body and its colon; empty where there is no such key.
func after(body []byte, key string) []byte {
	at := bytes.Index(body, []byte(`"`+key+`"`))
	if at < 0 {
		return nil
	}
	return bytes.TrimLeft(body[at+len(key)+2:], " :\n")
}

func has(body []byte, key, value string) bool {
	return bytes.HasPrefix(after(body, key), []byte(value))
}

func number(body []byte, key string, otherwise int) int {
	rest := after(body, key)
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	if n, err := strconv.Atoi(string(rest[:end])); err == nil {
		return n
	}
	return otherwise
}

// prompt makes a number of the first six token ids (three digits each, the first the most significant): the request's name in
// the truth. 0 for a prompt of words. It also says about how many tokens the prompt has.
func prompt(body []byte) (id uint64, tokens int) {
	rest := after(body, "prompt")
	if len(rest) == 0 || rest[0] != '[' {
		return 0, bytes.Count(body, []byte(" ")) + 1
	}
	rest = rest[:bytes.IndexByte(rest, ']')+1]
	tokens = bytes.Count(rest, []byte(",")) + 1
	value, ids := uint64(0), 0
	for _, c := range rest[1:] {
		switch {
		case c >= '0' && c <= '9':
			value = value*10 + uint64(c-'0')
		case c == ',' || c == ']':
			id, value, ids = id*1000+value, 0, ids+1
		}
		if ids == idsInKey {
			break
		}
	}
	return id, tokens
}

// read takes in what has come and begins what was asked, unless an answer is still under way on the connection.
func (s *server) read(c *conn) {
	for {
		c.in = grown(c.in)
		n, oobn, _, _, err := syscall.Recvmsg(c.fd, c.in[len(c.in):cap(c.in)], c.control[:], 0)
		if err == syscall.EAGAIN || err == syscall.EINTR {
			break
		}
		if err != nil || n <= 0 {
			s.close(c)
			return
		}
		c.in = c.in[:len(c.in)+n]
		c.readNs = s.clock.now()
		c.arrivedNs = s.received(c.control[:oobn], c.readNs)
		if len(c.in) < cap(c.in) {
			break
		}
	}
	if c.place < 0 {
		s.next(c)
	}
}

// received is when the kernel took the bytes in, by its own timestamp; without one, when they were read.
func (s *server) received(control []byte, readNs int64) int64 {
	const header = syscall.SizeofCmsghdr
	if len(control) < header+16 || binary.NativeEndian.Uint32(control[12:]) != syscall.SO_TIMESTAMPNS {
		return readNs
	}
	sec := int64(binary.NativeEndian.Uint64(control[header:]))
	nsec := int64(binary.NativeEndian.Uint64(control[header+8:]))
	return s.clock.fromWall(sec*1_000_000_000 + nsec)
}

func grown(in []byte) []byte {
	if cap(in)-len(in) >= 1024 {
		return in
	}
	bigger := make([]byte, len(in), max(4096, 2*cap(in)))
	copy(bigger, in)
	return bigger
}
