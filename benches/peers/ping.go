// The least that a registry in Go does for a PING: a goroutine a connection, a scanner for lines, a map of sessions
// behind a lock. What a real one does besides comes on top of this.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

type session struct {
	sync.Mutex
	lastActivity time.Time
}

var (
	lock     sync.RWMutex
	sessions = map[string]*session{}
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		if conn, err := listener.Accept(); err == nil {
			go serve(conn)
		}
	}
}

func serve(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		switch fields := strings.Split(lines.Text(), "|"); fields[0] {
		case "REGISTER":
			id := fmt.Sprintf("%s-%d", fields[2], time.Now().UnixNano())
			lock.Lock()
			sessions[id] = &session{lastActivity: time.Now()}
			lock.Unlock()
			fmt.Fprintf(conn, "ACK|%s\n", id)
		case "PING":
			lock.RLock()
			session, known := sessions[fields[1]]
			lock.RUnlock()
			if !known {
				fmt.Fprint(conn, "ERROR|no session\n")
				continue
			}
			session.Lock()
			session.lastActivity = time.Now()
			session.Unlock()
			fmt.Fprint(conn, "PONG\n")
		}
	}
}
