import { type RawBuilder, sql } from 'kysely'
import type { Statement } from '../adapters/adapter.ts'
import { type Naming, tableName } from '../migrate.ts'
import { compile, statement } from './statement.ts'
import { CLAIM_MS } from './store.ts'

/** Locks named in one statement. More would make packets and lock lists long without saving time. */
export const BATCH = 1000

/** A process that closes a gate opens it again; should it be gone, the gate opens after that time. */
const GATE_MS = 1000
/** A limit of the statement's own: without one, the session's `sql_select_limit` would count. */
const ALL = 2_000_000_000

/** Microseconds since 1970 by the server's clock, in UTC whatever the session's time zone, fixed when a statement starts. */
const now = sql`timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))`

/**
 * MySQL and MariaDB. Text travels as binary: no collation, no character set and no sql_mode has a say in it.
 *
 * UPDATE knows no NOWAIT, so each statement that changes rows finds them in a derived table FOR UPDATE SKIP LOCKED and
 * waits for nobody; `now`, read when the statement starts, is therefore never stale. The LIMIT keeps the optimizer from
 * merging that table into the update, which would silently drop the SKIP LOCKED; STRAIGHT_JOIN and FORCE INDEX keep it from
 * scanning a small table, which would lock all of its rows and wait for each. In what order a joined UPDATE assigns is not
 * defined, so a new value comes from the derived table, or from the same column.
 *
 * One statement serves one lock or many: what is asked comes as the table `asked`, with a row for each lock. What was done
 * with one comes back as last_insert_id(). affectedRows counts rows that were matched or rows that were changed, as the
 * client wishes, so it proves something where both are the same, or when it counts every row.
 *
 * The queue is an array of { id, n, ttl, until, holder, session, process, transaction, change }: `change` is the id of the arrival
 * or departure that changed the entry last. Free text in it is hex, which no character set can spoil.
 */
export function mysqlStatements(naming: Naming) {
  const locks = sql.raw(tableName('mysql', 'locks', naming))
  const gates = sql.raw(tableName('mysql', 'gates', naming))
  const engine = 'mysql'

  /** The rows of `asked`, in their order, each with its lock's row. */
  const askedLocks = sql`${ASKED} as asked straight_join ${locks} as l force index (primary) on l.name = asked.name`

  /** Entries are dead when their time is over. */
  const firstLives = sql`cast(json_value(l.queue, '$[0].until') as signed) > ${now}`
  const nobodyLives = sql`coalesce(
    (select max(entry.until) from json_table(l.queue, '$[*]' columns (until bigint path '$.until')) as entry), 0) <= ${now}`
  const waiters = sql`coalesce(
    (select sum(entry.n) from json_table(l.queue, '$[*]' columns (n int path '$.n')) as entry), 0)`

  // An aggregate, since MySQL answers wrongly for EXISTS over the elements of a row's column.
  const leasesWait = sql`coalesce(
    (select max(1 - entry.transaction) from json_table(l.queue, '$[*]' columns (transaction int path '$.transaction')) as entry), 0) = 1
    or exists (select 1 from ${gates} as g where g.name = l.name and g.closed_until > ${now})`

  const sight = sql`
    l.name, ${leasesWait} as leases_wait, l.owner, l.token, l.holder, l.session, l.handed_to, l.takeover, (l.expires_at - ${now}) / 1000 as remaining,
    case when l.session is null then 0 else is_free_lock(l.session) end as session_gone,
    l.queue is not null as awaited, cast(json_extract(l.queue, '$[*].id') as char) as entries`

  const isHeld = sql`l.owner is not null and l.expires_at > ${now} and (l.session is null or is_free_lock(l.session) = 0)`

  /**
   * Frees the locks of which `condition` is true, and gives each to the first entry of its queue, if that lives. insertId is
   * the new token then, the negative one if callers wait but the first is dead, and 0 if nobody waits.
   */
  const handOver = <Row extends object>(condition: RawBuilder<unknown>, takeover: RawBuilder<unknown>) =>
    batched<Row>(sql`
        update (
          select l.name, l.token, greatest(l.token + 1, ${now}) as next_token, ${takeover} as takeover,
                 l.queue is not null as awaited,
                 case when ${firstLives} then cast(json_extract(l.queue, '$[0]') as char(1000)) end as heir
          from ${askedLocks}
          where ${condition}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as freed
        straight_join ${locks} as l force index (primary) on l.name = freed.name
        set l.owner = case when freed.heir is not null
                           then concat(json_value(freed.heir, '$.id'), lpad(lower(hex(freed.next_token)), 16, '0')) end,
            l.token = case when freed.heir is null then freed.token else freed.next_token end,
            l.expires_at = ${now}
              + 1000 * coalesce(least(cast(json_value(freed.heir, '$.ttl') as signed), ${sql.lit(CLAIM_MS)}), 0)
              + 0 * case when freed.heir is not null then last_insert_id(freed.next_token)
                         when freed.awaited = 1 then last_insert_id(-freed.token)
                         else 0 end,
            l.holder = unhex(json_value(freed.heir, '$.holder')),
            l.session = unhex(json_value(freed.heir, '$.session')),
            l.handed_to = unhex(json_value(freed.heir, '$.process')),
            l.takeover = freed.takeover,
            l.queue = case when freed.heir is null then l.queue
                           when json_value(freed.heir, '$.n') > 1
                             then json_set(l.queue, '$[0].n', cast(json_value(freed.heir, '$.n') - 1 as signed))
                           when json_length(l.queue) > 1 then json_remove(l.queue, '$[0]') end`)

  /** Of MariaDB. */
  const limited = ({ text, values }: Statement, limits: string): Statement => ({
    text: `set statement ${limits} for ${text}`,
    values,
  })

  const createFree = statement<{ name: Buffer }>(
    engine,
    (p) => sql`
        insert into ${locks} (name, token, expires_at) values (${p.name}, ${now}, ${now})
        on duplicate key update token = token`,
  )

  const lockRow = statement<{ name: Buffer }>(
    engine,
    (p) => sql`select token from ${locks} force index (primary) where name = ${p.name} for update`,
  )

  // A hold of a transaction's own ends with it, so its expiry does not move: what waits for the row compares it with a clock
  // that was read before.
  const takeRow = statement<AskedWithin>(
    engine,
    (p) => sql`
        update ${locks}
        set token = last_insert_id(case when owner = ${p.owner} then token else greatest(token + 1, ${now}) end),
            owner = case when ${p.ttl} is not null then ${p.owner} end,
            holder = ${p.holder}, session = null, handed_to = ${p.mark}, takeover = 0,
            expires_at = coalesce(${now} + ${p.ttl} * 1000, least(expires_at, ${now}))
        where name = ${p.name}
          and (owner is null or owner = ${p.owner} or expires_at <= ${now} or session = ${p.deadSession})`,
  )

  return {
    // WHO HOLDS THE LOCK is decided by the WHERE of `free`, and by `handOver`. insertId is the token; negative if the last
    // holder had not released.
    acquire: batched<AskedAttempt>(sql`
        update (
          select l.name, asked.owner, asked.ttl, asked.holder, asked.session,
                 case when l.owner = asked.owner then l.token else greatest(l.token + 1, ${now}) end as next_token,
                 case when l.owner = asked.owner then l.takeover else l.owner is not null end as takeover
          from ${askedLocks}
          where l.owner = asked.owner
             or l.queue is null and (l.expires_at <= ${now} or l.session = asked.deadSession)
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as free
        straight_join ${locks} as l force index (primary) on l.name = free.name
        set l.owner = case when free.ttl is not null then free.owner end,
            l.token = free.next_token,
            l.expires_at = ${now} + coalesce(free.ttl, 0) * 1000
              + 0 * last_insert_id(case when free.takeover = 1 then -free.next_token else free.next_token end),
            l.holder = free.holder, l.session = free.session, l.handed_to = null, l.takeover = free.takeover`),

    // Not IGNORE: it locks the row that is in its way shared at first, and two of them, at a row just purged, deadlock. These
    // do so hardly ever, and are repeated.
    create: batched<AskedAttempt>(sql`
        insert into ${locks} (name, owner, token, expires_at, holder, session)
        select asked.name, asked.owner, last_insert_id(${now}), ${now} + asked.ttl * 1000, asked.holder, asked.session
        from ${ASKED} as asked
        on duplicate key update token = token + 0 * last_insert_id(0)`),

    // For a transaction: if it created the row itself, others would have to wait for its end to learn whether there is one.
    createFree,
    createFreeInMariadb: (asked: { name: Buffer }, limits: string): Statement => limited(createFree(asked), limits),
    // Whether an open transaction has created it. Asked before, since an INSERT of MySQL's cannot be told not to wait; asked
    // in the INSERT itself, it would lock the gap for so long that those who create neighbours would deadlock.
    isBeingCreated: statement<{ name: Buffer }>(
      engine,
      (p) => sql`select 1 from ${locks} force index (primary) where name = ${p.name} for update nowait`,
    ),

    // WHO GETS THE LOCK in a transaction: whoever has the row, unless a lease has the lock. Those who wait in the queue came
    // later, or the look before would have told of them: none can queue while a transaction waits for the row.
    //
    // The wait is limited by the statement itself, and ends it alone, with an error of its own: no setting of the session is
    // touched, and innodb_rollback_on_timeout has no say. NOWAIT and not SKIP LOCKED, which at REPEATABLE READ locks the gap
    // behind a row that it skips, so that nobody could create locks there until the transaction ends.
    //
    // MariaDB limits an UPDATE. MySQL limits a SELECT only, which locks the row first; and its UPDATE finds the row NOWAIT.
    takeRowInMariadb: (asked: AskedWithin, limits: string): Statement => limited(takeRow(asked), limits),
    takeRow,
    takeRowNow: statement<AskedWithin>(
      engine,
      (p) => sql`
        update (
          select name, case when owner = ${p.owner} then token else greatest(token + 1, ${now}) end as next_token
          from ${locks} force index (primary)
          where name = ${p.name}
            and (owner is null or owner = ${p.owner} or expires_at <= ${now} or session = ${p.deadSession})
          limit 1
          for update nowait
        ) as free
        straight_join ${locks} as l force index (primary) on l.name = free.name
        set l.token = free.next_token,
            l.owner = case when ${p.ttl} is not null then ${p.owner} end,
            l.holder = ${p.holder}, l.session = null, l.handed_to = ${p.mark}, l.takeover = 0,
            l.expires_at = coalesce(${now} + ${p.ttl} * 1000, least(l.expires_at, ${now})) + 0 * last_insert_id(free.next_token)`,
    ),
    lockRow: (name: Buffer, waitMs: number): Statement => {
      const { text, values } = lockRow({ name })
      return { text: text.replace('select', `select /*+ MAX_EXECUTION_TIME(${Math.ceil(waitMs)}) */`), values }
    },

    token: statement<{ name: Buffer }>(engine, (p) => sql`select token from ${locks} where name = ${p.name}`),
    awaited: statement<{ name: Buffer }>(
      engine,
      (p) => sql`select queue is not null as awaited from ${locks} where name = ${p.name}`,
    ),

    // A hold that this transaction has, if it has not been undone with a savepoint.
    ownHold: statement<{ name: Buffer; token: bigint; mark: Buffer }>(
      engine,
      (p) => sql`
        select token from ${locks} force index (primary)
        where name = ${p.name} and token = ${p.token} and handed_to = ${p.mark}`,
    ),

    closeGates: batched<{ name: Buffer; closer: Buffer }>(sql`
        insert into ${gates} (name, closed_until, closed_by)
        select asked.name, ${now} + ${sql.lit(GATE_MS)} * 1000, asked.closer from ${ASKED} as asked
        on duplicate key update closed_until = ${now} + ${sql.lit(GATE_MS)} * 1000, closed_by = asked.closer`),

    openGates: batched<{ name: Buffer; closer: Buffer }>(sql`
        update ${ASKED} as asked straight_join ${gates} as g force index (primary) on g.name = asked.name
        set g.closed_until = ${now}
        where g.closed_by = asked.closer`),

    // Into the last entry, or behind it, by one expression: json_set() appends what it is to set behind the end.
    enqueue: batched<AskedArrival>(sql`
        update (
          select place.*, coalesce(json_value(place.last, '$.id') = place.joins, 0) as joined
          from (
            select asked.*, coalesce(json_length(l.queue), 0) as length,
                   cast(json_extract(l.queue, concat('$[', json_length(l.queue) - 1, ']')) as char(1000)) as last
            from ${askedLocks}
            where ${waiters} + asked.count <= asked.most
            limit ${sql.lit(BATCH)}
            for update skip locked
          ) as place
        ) as place
        straight_join ${locks} as l force index (primary) on l.name = place.name
        set l.queue = json_set(
          coalesce(l.queue, json_array()),
          concat('$[', place.length - place.joined, ']'),
          json_object(
            'id', convert(case when place.joined then place.joins else place.entry end using utf8mb4),
            'n', cast(place.count + place.joined * coalesce(json_value(place.last, '$.n'), 0) as signed),
            'ttl', cast(place.ttl as signed),
            'until', greatest(
              cast(${now} + place.wait * 1000 as signed),
              place.joined * cast(coalesce(json_value(place.last, '$.until'), 0) as signed)),
            'holder', hex(place.holder),
            'session', hex(place.session),
            'process', hex(place.process),
            'transaction', place.transaction,
            'change', convert(place.entry using utf8mb4)))`),

    leave: batched<{ name: Buffer; entry: Buffer; count: number; departure: Buffer }>(sql`
        update (
          select asked.name, asked.count, asked.departure, cast(substring_index(json_unquote(
                   json_search(l.queue, 'one', convert(asked.entry using utf8mb4), null, '$[*].id')), '.', 1) as char(30)) as entry
          from ${askedLocks}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as place
        straight_join ${locks} as l force index (primary) on l.name = place.name
        set l.queue = case
          when json_extract(l.queue, concat(place.entry, '.n')) > place.count
            then json_set(l.queue, concat(place.entry, '.n'),
                          cast(json_extract(l.queue, concat(place.entry, '.n')) - place.count as signed),
                          concat(place.entry, '.change'), convert(place.departure using utf8mb4))
          when json_length(l.queue) > 1 then json_remove(l.queue, place.entry) end
        where place.entry is not null`),

    look: named(sql`select ${sight} from ${locks} as l where l.name in ${NAMES} limit ${sql.lit(BATCH)}`),

    // What of a queue a look does not show: the last change of each entry, and how many wait.
    changes: named(sql`
        select ${sight}, cast(json_extract(l.queue, '$[*].change') as char) as changes, ${waiters} as waiters
        from ${locks} as l
        where l.name in ${NAMES}
        limit ${sql.lit(BATCH)}`),

    // Where nobody waits. It leaves the queue alone, since MariaDB has joined updates of long texts go through the disk.
    release: batched<AskedHold>(sql`
        update (
          select l.name
          from ${askedLocks}
          where l.owner = asked.owner and l.token = asked.token and l.queue is null
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        set l.owner = null, l.session = null, l.handed_to = null, l.expires_at = least(l.expires_at, ${now})`),

    handOver: handOver<AskedHold>(sql`l.owner = asked.owner and l.token = asked.token`, sql`0`),

    // Not after a hand-off that ran out before it was claimed: the entries of that process go first, by `prune`.
    settle: handOver<{ name: Buffer; deadSession: Buffer | null }>(
      sql`(l.expires_at <= ${now} or l.session = asked.deadSession) and ${firstLives}
             and (l.owner is null or l.handed_to is null)`,
      sql`l.owner is not null`,
    ),

    queue: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        select ${sight}, ${now} as clock, cast(l.queue as binary) as queue
        from ${locks} as l
        where l.name = ${p.name}`,
    ),

    // Only if nothing has changed since it was read.
    prune: statement<{ name: Buffer; token: bigint; seen: Buffer; living: Buffer | null }>(
      engine,
      (p) => sql`
        update (
          select name from ${locks} force index (primary)
          where name = ${p.name} and token = ${p.token} and cast(queue as binary) = ${p.seen}
          limit 1
          for update skip locked
        ) as same
        straight_join ${locks} as l force index (primary) on l.name = same.name
        set l.queue = convert(${p.living} using utf8mb4), l.handed_to = null`,
    ),

    releaseIn: statement<AskedHold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, session = null, handed_to = null,
            expires_at = least(expires_at, ${now})
              + 0 * last_insert_id(case when queue is null then token else -token end)
        where name = ${p.name} and owner = ${p.owner} and token = ${p.token}`,
    ),

    // A write, not a locking read: on Galera and in multi-primary groups only a write takes part in certification. It waits
    // for the rows, one by one in the order of `asked`.
    guard: batched<AskedLease>(sql`
        update ${askedLocks}
        set l.expires_at = greatest(l.expires_at, ${now} + asked.ttl * 1000) + 0 * last_insert_id(l.token),
            l.handed_to = null
        where l.owner = asked.owner and l.token = asked.token and l.expires_at > ${now}`),

    // A renewal never shortens: a late one is harmless. insertId is what is left, in microseconds.
    renew: batched<AskedLease>(sql`
        update (
          select asked.name, greatest(l.expires_at - ${now}, asked.ttl * 1000) as remaining
          from ${askedLocks}
          where l.owner = asked.owner and l.token = asked.token and l.expires_at > ${now}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        set l.expires_at = ${now} + last_insert_id(mine.remaining), l.handed_to = null`),

    list: statement<{ prefix: Buffer }>(
      engine,
      (p) => sql`
        select ${sight}, ${waiters} as waiters
        from ${locks} as l
        where left(l.name, length(${p.prefix})) = ${p.prefix} and ${isHeld}
        order by l.name
        limit ${sql.lit(ALL)}`,
    ),

    inspect: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        select ${sight}, ${waiters} as waiters
        from ${locks} as l
        where l.name = ${p.name} and ${isHeld}`,
    ),

    forceRelease: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        update (
          select name, greatest(token + 1, ${now}) as next_token
          from ${locks} force index (primary)
          where name = ${p.name} and owner is not null and expires_at > ${now}
          limit 1
          for update skip locked
        ) as held
        straight_join ${locks} as l force index (primary) on l.name = held.name
        set l.owner = null, l.session = null, l.handed_to = null, l.token = held.next_token,
            l.expires_at = ${now} + 0 * last_insert_id(held.next_token)`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purgeable: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        select l.name
        from ${locks} as l
        where l.expires_at <= ${now} - ${p.idleMs} * 1000 and l.token < ${now} and ${nobodyLives}
        order by l.name
        limit ${sql.lit(ALL)}`,
    ),

    purge: batched<{ name: Buffer; idleMs: number }>(sql`
        delete l from (
          select asked.name
          from ${askedLocks}
          where l.expires_at <= ${now} - asked.idleMs * 1000 and l.token < ${now} and ${nobodyLives}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as idle
        straight_join ${locks} as l force index (primary) on l.name = idle.name`),
  }
}

interface AskedHold {
  readonly name: Buffer
  readonly owner: Buffer
  readonly token: bigint
}

interface AskedLease extends AskedHold {
  readonly ttl: number
}

interface AskedAttempt {
  readonly name: Buffer
  readonly owner: Buffer
  readonly ttl: number | null
  readonly holder: Buffer
  readonly session: Buffer | null
  /** A session that is gone; a hold that depends on it is over. */
  readonly deadSession: Buffer | null
}

interface AskedWithin extends Omit<AskedAttempt, 'session'> {
  /** Of the transaction that takes it. */
  readonly mark: Buffer
}

interface AskedArrival {
  readonly name: Buffer
  readonly entry: Buffer
  readonly joins: Buffer | null
  readonly count: number
  readonly ttl: number
  readonly holder: Buffer
  readonly session: Buffer | null
  readonly process: Buffer
  readonly transaction: 0 | 1
  readonly wait: number
  /** Callers in the queue, at most. */
  readonly most: number
}

const ASKED = sql.raw('/* asked */')
const NAMES = sql.raw('/* names */')

/**
 * `sql_safe_updates` refuses to change rows that a join with another table has found, rather than a constant. What lifts it for
 * one statement is a comment on the other of the two servers.
 */
const UNGUARDED = '/*M! set statement sql_safe_updates = 0 for */ $1 /*+ set_var(sql_safe_updates = off) */'

/** A statement with a table of what is asked of it. It is compiled once; the rows are put in later, whatever their number. */
function batched<Row extends object>(query: RawBuilder<unknown>): (rows: readonly Row[]) => Statement {
  const [before, after] = compile('mysql', query).text.split('/* asked */')
  const beforeMany = before!.replace(/^\s*(update|delete)\b/, UNGUARDED)
  return (rows) => {
    const columns = Object.keys(rows[0]!)
    const first = columns.map((column) => `? as ${column}`).join(', ')
    const other = ` union all select ${columns.map(() => '?').join(', ')}`
    return {
      text: `${rows.length > 1 ? beforeMany : before}(select ${first}${other.repeat(rows.length - 1)} limit ${rows.length})${after}`,
      values: rows.flatMap((row) => columns.map((column) => row[column as keyof Row])),
    }
  }
}

/** A statement with a list of names, compiled in the same way. */
function named(query: RawBuilder<unknown>): (names: readonly Buffer[]) => Statement {
  const [before, after] = compile('mysql', query).text.split('/* names */')
  return (names) => ({ text: `${before}(?${', ?'.repeat(names.length - 1)})${after}`, values: names })
}
