package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"example.com/backend/fanlight"
)

type person struct {
	User string `json:"user"`
	// Since when each is there, by its session's id.
	Devices  map[string]time.Time `json:"devices"`
	LastSeen time.Time            `json:"last_seen"`
	// Of two states of one person, the one with the higher version is the newer.
	Version int64 `json:"version"`
}

// people is everybody who was ever there, in memory and in a file.
type people struct {
	file    string
	mutex   sync.Mutex
	byUser  map[string]*person
	changed chan person
}

func load(file string) (*people, error) {
	all := &people{file: file, byUser: map[string]*person{}, changed: make(chan person, 1024)}
	go all.publish()
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all.byUser)
	}
	if err != nil {
		return nil, err
	}
	return all, all.ask()
}

// apply takes an event. One that comes twice changes nothing the second time.
func (p *people) apply(event event) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	person := p.of(event.User)
	_, known := person.Devices[event.Session]
	switch {
	case event.Type == "connected" && !known:
		person.Devices[event.Session] = event.Time
	case event.Type == "disconnected" && (known || event.Time.After(person.LastSeen)):
		delete(person.Devices, event.Session)
	default:
		return
	}
	if event.Time.After(person.LastSeen) {
		person.LastSeen = event.Time
	}
	p.changes(person)
}

func (p *people) of(user string) *person {
	if p.byUser[user] == nil {
		p.byUser[user] = &person{User: user, Devices: map[string]time.Time{}}
	}
	return p.byUser[user]
}

// changes keeps and tells a new state; to be called with the mutex held.
func (p *people) changes(person *person) {
	person.Version++
	if now := time.Now().UnixMilli(); now > person.Version {
		person.Version = now
	}
	p.changed <- copyOf(person)
	text, err := json.Marshal(p.byUser)
	if err == nil {
		err = os.WriteFile(p.file+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(p.file+".new", p.file)
	}
	if err != nil {
		log.Print(err)
	}
}

func (p *people) list() []person {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	list := make([]person, 0, len(p.byUser))
	for _, person := range p.byUser {
		list = append(list, copyOf(person))
	}
	return list
}

func copyOf(p *person) person {
	copied := *p
	copied.Devices = make(map[string]time.Time, len(p.Devices))
	for session, since := range p.Devices {
		copied.Devices[session] = since
	}
	return copied
}

// publish tells each change, in order, and again until a gateway has it.
func (p *people) publish() {
	for person := range p.changed {
		key := fmt.Sprintf("%s-%d", person.User, person.Version)
		delay := 100 * time.Millisecond
		for {
			err := api.Publish("/topic/people", person, key)
			var refused *fanlight.Refused
			if errors.As(err, &refused) {
				log.Printf("never published: %v", err)
			}
			if err == nil || refused != nil {
				break
			}
			log.Printf("not published yet: %v", err)
			time.Sleep(delay)
			if delay *= 2; delay > 5*time.Second {
				delay = 5 * time.Second
			}
		}
	}
}

// ask corrects what was kept: who came or went while this was away, is asked of the gateways, as
// their events are kept for a while only.
func (p *people) ask() error {
	users := make([]string, 0, len(p.byUser))
	for user := range p.byUser {
		users = append(users, user)
	}
	for from := 0; from < len(users); from += 100 {
		some := users[from:]
		if len(some) > 100 {
			some = some[:100]
		}
		answer, err := statusOf(some)
		if err != nil {
			return err
		}
		for _, status := range answer.Users {
			p.correct(status)
		}
	}
	return nil
}

type status struct {
	User     string
	Sessions []struct {
		Session     string
		SinceUnixMs int64 `json:"since_unix_ms"`
	}
}

func (p *people) correct(status status) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	person := p.of(status.User)
	devices := map[string]time.Time{}
	for _, session := range status.Sessions {
		devices[session.Session] = time.UnixMilli(session.SinceUnixMs).UTC()
	}
	person.Devices = devices
	p.changes(person)
}

func statusOf(users []string) (answer struct{ Users []status }, err error) {
	body, err := json.Marshal(map[string]any{"users": users})
	if err != nil {
		return answer, err
	}
	request, err := http.NewRequest(http.MethodPost, api.URL+"/users/status", bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	request.Header.Set("Authorization", "Bearer "+api.Key)
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("users' status: %s", response.Status)
	}
	return answer, json.NewDecoder(response.Body).Decode(&answer)
}
