package main

// dueHeap is the streams by the time of their next write, the soonest first; each knows its place in it.
type dueHeap []*conn

func (h *dueHeap) add(c *conn) {
	*h = append(*h, c)
	c.place = len(*h) - 1
	h.rise(c.place)
}

func (h *dueHeap) remove(c *conn) {
	place, last := c.place, len(*h)-1
	(*h)[place] = (*h)[last]
	(*h)[place].place = place
	(*h)[last] = nil
	*h = (*h)[:last]
	c.place = -1
	if place < last {
		h.rise(place)
		h.sink(place)
	}
}

func (h dueHeap) rise(at int) {
	for at > 0 {
		parent := (at - 1) / 2
		if h[parent].dueNs <= h[at].dueNs {
			return
		}
		h.swap(parent, at)
		at = parent
	}
}

func (h dueHeap) sink(at int) {
	for {
		child := 2*at + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1].dueNs < h[child].dueNs {
			child++
		}
		if h[at].dueNs <= h[child].dueNs {
			return
		}
		h.swap(at, child)
		at = child
	}
}

func (h dueHeap) swap(a, b int) {
	h[a], h[b] = h[b], h[a]
	h[a].place, h[b].place = a, b
}
