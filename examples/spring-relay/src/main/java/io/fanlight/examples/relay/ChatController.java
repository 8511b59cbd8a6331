package io.fanlight.examples.relay;

import java.security.Principal;

import org.springframework.messaging.handler.annotation.DestinationVariable;
import org.springframework.messaging.handler.annotation.MessageMapping;
import org.springframework.messaging.handler.annotation.SendTo;
import org.springframework.messaging.simp.SimpMessagingTemplate;
import org.springframework.messaging.simp.annotation.SendToUser;
import org.springframework.stereotype.Controller;

/** What clients send to {@code /app/...}; answers go out through the broker. */
@Controller
class ChatController {

  private final SimpMessagingTemplate messaging;

  ChatController(SimpMessagingTemplate messaging) {
    this.messaging = messaging;
  }

  /** Says something to everybody in a room. */
  @MessageMapping("/rooms/{room}")
  @SendTo("/topic/rooms.{room}")
  Note say(String text, Principal user) {
    return new Note(nameOf(user), text);
  }

  /** Answers everywhere that the sender is connected. */
  @MessageMapping("/echo")
  @SendToUser("/queue/replies")
  Note echo(String text, Principal user) {
    return new Note(nameOf(user), text);
  }

  /** Answers the sender's own session only. */
  @MessageMapping("/whisper")
  @SendToUser(destinations = "/queue/replies", broadcast = false)
  Note whisper(String text, Principal user) {
    return new Note(nameOf(user), text);
  }

  /** Tells another user. */
  @MessageMapping("/tell/{to}")
  void tell(@DestinationVariable String to, String text, Principal user) {
    messaging.convertAndSendToUser(to, "/queue/replies", new Note(nameOf(user), text));
  }

  private static String nameOf(Principal user) {
    return user == null ? "somebody" : user.getName();
  }
}
