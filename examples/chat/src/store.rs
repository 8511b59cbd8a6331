//! Messages and rooms in the database.

use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;

use crate::message::{Draft, Message, Name, Place, Room};

/// How many messages are read at once.
pub const PAGE: i64 = 30;

pub struct Store {
    pool: MySqlPool,
}

/// What became of a message.
pub enum Kept {
    /// It is there, now or since it was sent before.
    Message(Message),
    /// Its author has used this id for another place.
    Elsewhere,
}

type Row = (u64, String, String, Option<String>, Option<String>, String, i64);

impl Store {
    /// Connects, and makes the tables if they are not there.
    pub async fn open(url: &str) -> Result<Self, sqlx::Error> {
        let pool = MySqlPoolOptions::new().max_connections(8).connect(url).await?;
        sqlx::raw_sql(include_str!("schema.sql")).execute(&pool).await?;
        Ok(Self { pool })
    }

    /// Keeps a message; one that was kept before is not kept again.
    pub async fn keep(
        &self,
        author: &Name,
        place: &Place,
        draft: &Draft,
        at: i64,
    ) -> Result<Kept, sqlx::Error> {
        let (room, recipient) = match place {
            Place::Room(room) => (Some(room.as_str()), None),
            Place::To(name) => (None, Some(name.as_str())),
        };
        sqlx::query(
            "INSERT INTO messages (author, id, room, recipient, text, at) VALUES (?, ?, ?, ?, ?, ?)
             ON DUPLICATE KEY UPDATE seq = seq",
        )
        .bind(author.as_str())
        .bind(&draft.id)
        .bind(room)
        .bind(recipient)
        .bind(&draft.text)
        .bind(at)
        .execute(&self.pool)
        .await?;
        let row: Row = sqlx::query_as(
            "SELECT seq, id, author, room, recipient, text, at FROM messages
             WHERE author = ? AND id = ?",
        )
        .bind(author.as_str())
        .bind(&draft.id)
        .fetch_one(&self.pool)
        .await?;
        let message = message(row);
        let is_here = message.room.as_deref() == room && message.recipient.as_deref() == recipient;
        Ok(if is_here { Kept::Message(message) } else { Kept::Elsewhere })
    }

    /// Whether this opens a room, and not somebody before.
    pub async fn opens(&self, room: &Room, at: i64) -> Result<bool, sqlx::Error> {
        let insert = sqlx::query("INSERT IGNORE INTO rooms (name, opened_at) VALUES (?, ?)");
        let done = insert.bind(room.as_str()).bind(at).execute(&self.pool).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Every room, the newest first.
    pub async fn rooms(&self) -> Result<Vec<String>, sqlx::Error> {
        let rows = sqlx::query_as("SELECT name FROM rooms ORDER BY opened_at DESC LIMIT 200");
        let rows: Vec<(String,)> = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// The last messages of a room before `seq`, in their order.
    pub async fn before(&self, room: &Room, seq: u64) -> Result<Vec<Message>, sqlx::Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT seq, id, author, room, recipient, text, at FROM messages
             WHERE room = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
        )
        .bind(room.as_str())
        .bind(seq)
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().rev().map(message).collect())
    }

    /// The last private messages from and to somebody, in their order.
    pub async fn private(&self, name: &Name) -> Result<Vec<Message>, sqlx::Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "(SELECT seq, id, author, room, recipient, text, at FROM messages
              WHERE recipient = ? ORDER BY seq DESC LIMIT ?)
             UNION
             (SELECT seq, id, author, room, recipient, text, at FROM messages
              WHERE author = ? AND recipient IS NOT NULL ORDER BY seq DESC LIMIT ?)
             ORDER BY seq DESC LIMIT ?",
        )
        .bind(name.as_str())
        .bind(PAGE)
        .bind(name.as_str())
        .bind(PAGE)
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().rev().map(message).collect())
    }
}

fn message((seq, id, author, room, recipient, text, at): Row) -> Message {
    Message { seq, id, author, room, recipient, text, at }
}
