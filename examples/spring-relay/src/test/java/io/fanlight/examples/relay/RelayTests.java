package io.fanlight.examples.relay;

import static io.fanlight.examples.relay.Client.next;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import java.time.Duration;

import io.fanlight.examples.relay.Client.Transport;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.boot.test.context.SpringBootTest.WebEnvironment;
import org.springframework.boot.test.web.server.LocalServerPort;
import org.springframework.messaging.MessageDeliveryException;
import org.springframework.messaging.simp.SimpMessagingTemplate;
import org.springframework.messaging.simp.stomp.StompHeaders;
import org.springframework.web.socket.WebSocketHttpHeaders;

/** The application, with Fanlight behind its broker relay. */
@SpringBootTest(
    webEnvironment = WebEnvironment.RANDOM_PORT,
    properties = "server.shutdown=immediate")
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class RelayTests {

  @LocalServerPort
  private int port;

  @Autowired
  private BrokerState broker;

  @Autowired
  private SimpMessagingTemplate messaging;

  @BeforeEach
  void theBrokerIsThere() {
    await().atMost(Duration.ofSeconds(30)).until(broker::isAvailable);
  }

  @ParameterizedTest
  @EnumSource(names = {"WEBSOCKET", "SOCKJS_WEBSOCKET"})
  void aHandlersAnswerReachesEveryoneInTheRoom(Transport transport) throws Exception {
    try (var ann = Client.ofApplication(transport, port, "ann");
        var bob = Client.ofApplication(transport, port, "bob")) {
      var room = "/topic/rooms." + transport;
      var heardByAnn = ann.subscribe(room);
      var heardByBob = bob.subscribe(room);
      ann.tell("/app/rooms/" + transport, "hello");
      assertThat(next(heardByAnn).note()).isEqualTo(new Note("ann", "hello"));
      assertThat(next(heardByBob).note()).isEqualTo(new Note("ann", "hello"));
      // Past every handler, and confirmed by the broker.
      bob.publish(room, new Note("bob", "hi"));
      assertThat(next(heardByAnn).note()).isEqualTo(new Note("bob", "hi"));
    }
  }

  @Test
  void userDestinationsReachEverySessionOfTheirUserAndNobodyElse() throws Exception {
    try (var first = Client.ofApplication(Transport.WEBSOCKET, port, "ann");
        var second = Client.ofApplication(Transport.SOCKJS_XHR_STREAMING, port, "ann");
        var bob = Client.ofApplication(Transport.WEBSOCKET, port, "bob")) {
      var heardByFirst = first.subscribe("/user/queue/replies");
      var heardBySecond = second.subscribe("/user/queue/replies");
      var heardByBob = bob.subscribe("/user/queue/replies");

      bob.tell("/app/tell/ann", "psst");
      var received = next(heardByFirst);
      assertThat(received.note()).isEqualTo(new Note("bob", "psst"));
      assertThat(received.headers().getDestination()).isEqualTo("/user/queue/replies");
      assertThat(next(heardBySecond).note().from()).isEqualTo("bob");

      first.tell("/app/echo", "to both");
      assertThat(next(heardByFirst).note().text()).isEqualTo("to both");
      assertThat(next(heardBySecond).note().text()).isEqualTo("to both");

      second.tell("/app/whisper", "to one");
      assertThat(next(heardBySecond).note().text()).isEqualTo("to one");

      // Whatever had been sent to others would have come before this.
      bob.tell("/app/whisper", "last");
      assertThat(next(heardByBob).note().text()).isEqualTo("last");
      first.tell("/app/whisper", "last");
      assertThat(next(heardByFirst).note().text()).isEqualTo("last");
    }
  }

  @Test
  void whatTheApplicationSendsComesInOrderAndIsNotBoundByRates() throws Exception {
    try (var ann = Client.ofApplication(Transport.WEBSOCKET, port, "ann")) {
      var heard = ann.subscribe("/topic/prices");
      for (int n = 0; n < 1000; n++) {
        messaging.convertAndSend("/topic/prices", new Note("app", "price " + n));
      }
      for (int n = 0; n < 1000; n++) {
        assertThat(next(heard).note().text()).isEqualTo("price " + n);
      }
    }
  }

  @Test
  void clientsAreNotToldTheAccountOfTheRelay() throws Exception {
    try (var ann = Client.ofApplication(Transport.WEBSOCKET, port, "ann")) {
      assertThat(ann.connected.getFirst("user-name")).isEqualTo("ann");
    }
    var nameless = new WebSocketHttpHeaders();
    var server = "127.0.0.1:" + port;
    try (var nobody =
        Client.connect(Transport.WEBSOCKET, server, nameless, new StompHeaders())) {
      assertThat(nobody.connected.getFirst("user-name")).isNull();
    }
  }

  @Test
  @Order(Integer.MAX_VALUE)
  void whileTheBrokerIsAwaySendingFailsAndAllGoesOnOnceItIsBack() throws Exception {
    var ann = Client.ofApplication(Transport.WEBSOCKET, port, "ann");
    ann.subscribe("/topic/news");
    Fanlight.drain();
    assertThat(ann.awaitError()).isNotNull();
    ann.awaitLoss();
    await().atMost(Duration.ofSeconds(30)).until(() -> !broker.isAvailable());
    assertThatThrownBy(() -> messaging.convertAndSend("/topic/news", new Note("app", "lost")))
        .isInstanceOf(MessageDeliveryException.class);

    theBrokerIsThere();
    try (var again = Client.ofApplication(Transport.WEBSOCKET, port, "ann")) {
      var heard = again.subscribe("/topic/news");
      messaging.convertAndSend("/topic/news", new Note("app", "back"));
      assertThat(next(heard).note()).isEqualTo(new Note("app", "back"));
    }
  }
}
