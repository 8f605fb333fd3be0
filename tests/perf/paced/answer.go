package main

import (
	"fmt"
	"strings"
	"syscall"
)

// conn is one connection and the answer that is being written on it.
type conn struct {
	fd                int
	in, out           []byte
	control           [64]byte
	readNs, arrivedNs int64
	asked             asked
	row               handle
	written           int
	dueNs             int64
	place             int
	closes, closed    bool
}

const (
	streamHead = "HTTP/1.1 200 OK\r\nserver: paced\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
	models     = `{"object":"list","data":[{"id":"m","object":"model","owned_by":"paced","max_model_len":131072}]}`
	frame      = `{"id":"cmpl-0123456789abcdef","object":"%s","created":1750000000,"model":"m","choices":[%s]%s}`
)

var (
	// Each is one token of the tokenizer that tests/engine/tiny.py makes: a client that counts them itself counts as many as there are.
	words = strings.Fields("answer bench chunk decode engine fetch graph hour issue judge kernel load model norm open prompt")
	// events[chat][which] is a token's event, last[chat] the last one's, with its reason to end; all with their chunk's frame.
	events [2][16][]byte
	last   [2][]byte
	role   = chunk(fmt.Sprintf(frame, "chat.completion.chunk", `{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}`, ""))
	ending = []byte("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
)

func init() {
	objects := []string{"text_completion", "chat.completion.chunk"}
	choices := []string{
		`{"index":0,"text":" %s","logprobs":null,"finish_reason":%s,"stop_reason":null}`,
		`{"index":0,"delta":{"content":" %s"},"logprobs":null,"finish_reason":%s}`,
	}
	for chat := range objects {
		for i, word := range words {
			events[chat][i] = chunk(fmt.Sprintf(frame, objects[chat], fmt.Sprintf(choices[chat], word, "null"), ""))
		}
		last[chat] = chunk(fmt.Sprintf(frame, objects[chat], fmt.Sprintf(choices[chat], "token", `"length"`), ""))
	}
}

func chunk(document string) []byte {
	event := "data: " + document + "\n\n"
	return fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
}

func index(chat bool) int {
	if chat {
		return 1
	}
	return 0
}

// next begins the next request that the connection has brought, if it is whole.
func (s *server) next(c *conn) {
	for !c.closed && c.place < 0 {
		if c.closes && len(c.out) == 0 {
			s.close(c)
			return
		}
		m, size := parse(c.in)
		if size < 0 {
			s.close(c)
			return
		}
		if size == 0 {
			return
		}
		c.closes = m.closes
		s.answer(c, m)
		c.in = c.in[:copy(c.in, c.in[size:])]
	}
}

func (s *server) answer(c *conn, m message) {
	path, _, _ := strings.Cut(m.path, "?")
	switch {
	case m.method == "GET" && path == "/truth":
		s.write(c, whole(200, "application/octet-stream", s.truth.bytes()))
	case m.method == "POST" && path == "/truth/reset":
		s.truth.reset()
		s.write(c, whole(200, "text/plain", nil))
	case m.method == "GET" && strings.HasSuffix(path, "/models"):
		s.write(c, whole(200, "application/json", []byte(models)))
	case m.method == "GET" && strings.HasSuffix(path, "/health"):
		s.write(c, whole(200, "text/plain", nil))
	case m.method == "POST":
		if asked, ok := want(m); ok {
			s.begin(c, asked)
			return
		}
		fallthrough
	default:
		s.write(c, whole(404, "application/json", []byte(`{"error":{"message":"no such path","type":"NotFound","code":404}}`)))
	}
}

func whole(status int, kind string, body []byte) []byte {
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n", status, "x", kind, len(body))
	return append([]byte(head), body...)
}

func (s *server) begin(c *conn, a asked) {
	c.asked, c.written = a, 0
	c.row = s.truth.begin(a, c.arrivedNs, c.readNs)
	c.dueNs = c.readNs + a.ttftNs
	switch a.mode {
	case "spread":
		s.random ^= s.random << 13
		s.random ^= s.random >> 7
		s.random ^= s.random << 17
		c.dueNs += int64(s.random>>11) % max(1, a.itlNs)
	case "step":
		c.dueNs = multiple(c.dueNs, a.itlNs)
	}
	if !a.stream {
		c.dueNs += int64((a.tokens+a.events-1)/a.events-1) * a.itlNs
	} else if a.chat {
		s.write(c, append([]byte(streamHead), role...))
	} else {
		s.write(c, []byte(streamHead))
	}
	if !c.closed {
		s.due.add(c)
	}
}

// after is when the next write of an answer is due.
func (s *server) after(c *conn) int64 {
	if c.asked.mode == "step" {
		return multiple(c.dueNs+1, c.asked.itlNs)
	}
	return c.dueNs + c.asked.itlNs
}

func multiple(atNs, of int64) int64 {
	of = max(1, of)
	return (atNs + of - 1) / of * of
}

// step makes one write of an answer: some events, or the whole of one that is not streamed.
func (s *server) step(c *conn) {
	a := &c.asked
	if !a.stream {
		c.written = a.tokens
		s.truth.wrote(c.row, 0, a.tokens, s.clock.now())
		s.write(c, whole(200, "application/json", document(a)))
		return
	}
	n := min(a.events, a.tokens-c.written)
	isLast := c.written+n == a.tokens
	if n == 1 && !isLast {
		one := events[index(a.chat)][c.written&15]
		s.truth.wrote(c.row, c.written, 1, s.clock.now())
		c.written++
		s.write(c, one)
		return
	}
	together := s.scratch[:0]
	for i := range n {
		if isLast && i == n-1 {
			together = append(together, last[index(a.chat)]...)
		} else {
			together = append(together, events[index(a.chat)][(c.written+i)&15]...)
		}
	}
	if isLast {
		if a.usage {
			together = append(together, chunk(fmt.Sprintf(frame, object(a), "", usage(a)))...)
		}
		together = append(together, ending...)
	}
	s.truth.wrote(c.row, c.written, n, s.clock.now())
	c.written += n
	s.scratch = together
	s.write(c, together)
}

func object(a *asked) string {
	if a.chat {
		return "chat.completion.chunk"
	}
	return "text_completion"
}

func usage(a *asked) string {
	return fmt.Sprintf(
		`,"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}`, a.promptTokens, a.promptTokens+a.tokens, a.tokens,
	)
}

func document(a *asked) []byte {
	text := strings.Repeat(" token", a.tokens)
	if a.chat {
		choice := fmt.Sprintf(`{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"length"}`, text)
		return fmt.Appendf(nil, frame, "chat.completion", choice, usage(a))
	}
	return fmt.Appendf(nil, frame, "text_completion", fmt.Sprintf(`{"index":0,"text":"%s","finish_reason":"length"}`, text), usage(a))
}

// write sends what the socket takes and keeps the rest for later. A connection that is gone is closed.
func (s *server) write(c *conn, data []byte) {
	if len(c.out) > 0 {
		c.out = append(c.out, data...)
		s.truth.queued++
		return
	}
	n, err := send(c.fd, data)
	if err != 0 && err != syscall.EAGAIN {
		s.close(c)
		return
	}
	if n < len(data) {
		c.out = append(c.out, data[n:]...)
		s.truth.queued++
		s.watch(c, true)
	}
}

// flush sends what is left of earlier writes.
func (s *server) flush(c *conn) {
	n, err := send(c.fd, c.out)
	if err != 0 && err != syscall.EAGAIN {
		s.close(c)
		return
	}
	if c.out = c.out[n:]; len(c.out) == 0 {
		c.out = nil
		s.watch(c, false)
		if c.place < 0 {
			s.next(c)
		}
	}
}

func (s *server) watch(c *conn, out bool) {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(c.fd)}
	if out {
		event.Events |= syscall.EPOLLOUT
	}
	_ = syscall.EpollCtl(s.poll, syscall.EPOLL_CTL_MOD, c.fd, &event)
}
