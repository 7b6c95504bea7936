-- One row per lock name, kept between holds, so that the token of a name can only rise.
-- Times are microseconds since 1970 in UTC: no session time zone can bend them. DDL commits by itself here, hence IF NOT
-- EXISTS: a migration that was cut off is simply run again.
create table if not exists rowlock_locks (
  name varbinary(255) not null primary key,      -- compared byte by byte
  owner varbinary(64),                           -- who holds it: the id of one acquire or hand-off; null when released
  token bigint not null,                         -- fencing token, rises with every change of owner
  expires_at bigint not null,                    -- held only before that moment of this server's clock
  holder varbinary(255),                         -- host:pid of the holder, for people
  session varbinary(64),                         -- GET_LOCK name of the holder's session, if the lease ends with that session
  queue json,                                    -- who waits, first come first; null when nobody does
  handed_to varbinary(64),                       -- the process that was handed the lock and has not renewed the lease yet,
                                                 -- or the transaction that took it last
  takeover tinyint not null default 0            -- 1 if that hand-off took it from a holder that had not released it
) engine = InnoDB;

-- While transactions take a lock one after the other, its row is always locked, and no lease can queue there. Whoever waits
-- for one then closes the gate here for a moment, and transactions let it in.
create table if not exists rowlock_gates (
  name varbinary(255) not null primary key,
  closed_until bigint not null,                  -- microseconds since 1970 in UTC
  closed_by varbinary(64) not null               -- who closed it last, and opens it again
) engine = InnoDB;

-- How these tables are read and written, as a number: a version of the library that does not know it refuses them.
insert ignore into rowlock_migrations (name) values ('protocol 1');
