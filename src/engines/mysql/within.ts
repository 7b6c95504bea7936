import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { toNumber } from '../../adapters/shape.ts'
import type { LockError } from '../../base/errors.ts'
import { acquireIn as decide, kindOf, suits } from '../../protocol/lock-row.ts'
import type { Attempt, AttemptInResult, ExclusiveAttempt, Hold, Store } from '../../protocol/store.ts'
import { noTransaction, transactionAborted } from '../failures.ts'
import { statement } from '../statement.ts'
import { administrationStatements } from './administration.ts'
import type { Context } from './context.ts'
import { ASKED, BATCH, batched, engine, type Fragments, limited, now } from './fragments.ts'
import {
  isLocked,
  limitsOf,
  NO_WAIT,
  PART_OF_ROW_WAIT,
  rollsBackOnTimeout,
  type Settings,
  unlessLocked,
} from './row-waits.ts'
import { tokenAfter } from './token-after.ts'
import { type AskedWithin, bytes, type Row, text, toAskedAttempt } from './values.ts'

/** One of several that are taken together. */
export interface AskedFree {
  readonly name: Buffer
  readonly holder: Buffer
  readonly deadSession: Buffer | null
  readonly mark: Buffer
}

export interface OwnHold {
  readonly name: Buffer
  readonly token: bigint
  readonly mark: Buffer
}

export function withinStatements({ locks, askedLocks, unshared }: Fragments) {
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
        update ${locks} as l
        set token = last_insert_id(case when owner = ${p.owner} then token else greatest(token + 1, ${now}) end),
            owner = case when ${p.ttl} is not null then ${p.owner} end,
            holder = ${p.holder}, session = null, handed_to = ${p.mark}, takeover = 0,
            expires_at = coalesce(${now} + ${p.ttl} * 1000, least(expires_at, ${now}))
        where name = ${p.name}
          and (owner is null or owner = ${p.owner} or expires_at <= ${now} or session = ${p.deadSession}) and ${unshared}`,
  )

  const ownHold = statement<OwnHold>(
    engine,
    (p) => sql`
        select token from ${locks} force index (primary)
        where name = ${p.name} and token = ${p.token} and handed_to = ${p.mark}
        for update`,
  )

  return {
    // For a transaction: if it created the row itself, others would have to wait for its end to learn whether there is one.
    createFree,

    createFreeInMariadb: (asked: { name: Buffer }, limits: string): Statement => limited(createFree(asked), limits),

    // Whether another transaction has the row, as one that has just created it. Asked before, since an INSERT of MySQL's cannot be
    // told not to wait; asked in the INSERT itself, it would lock the gap for so long that those who create neighbours would deadlock.
    lockRowNow: statement<{ name: Buffer }>(
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
          from ${locks} as l force index (primary)
          where name = ${p.name}
            and (owner is null or owner = ${p.owner} or expires_at <= ${now} or session = ${p.deadSession}) and ${unshared}
          limit 1
          for update nowait
        ) as free
        straight_join ${locks} as l force index (primary) on l.name = free.name
        set l.token = free.next_token,
            l.owner = case when ${p.ttl} is not null then ${p.owner} end,
            l.holder = ${p.holder}, l.session = null, l.handed_to = ${p.mark}, l.takeover = 0,
            l.expires_at = coalesce(${now} + ${p.ttl} * 1000, least(l.expires_at, ${now})) + 0 * last_insert_id(free.next_token)`,
    ),

    // The same of many: one that another transaction has ends the statement, and one that a lease has got meanwhile is missed.
    takeFree: batched<AskedFree>(sql`
        update (
          select l.name, asked.holder, asked.mark, greatest(l.token + 1, ${now}) as next_token
          from ${askedLocks}
          where (l.owner is null or l.expires_at <= ${now} or l.session = asked.deadSession) and ${unshared}
          limit ${sql.lit(BATCH)}
          for update nowait
        ) as free
        straight_join ${locks} as l force index (primary) on l.name = free.name
        set l.token = free.next_token, l.owner = null, l.holder = free.holder, l.session = null, l.handed_to = free.mark,
            l.takeover = 0, l.expires_at = least(l.expires_at, ${now})`),

    // Locked by this transaction already; a plain read would take a snapshot. A join, and no list of names: MariaDB makes a
    // table of a thousand names, and scans that of the locks for it, which would lock all of its rows.
    tokens: batched<{ name: Buffer }>(
      sql`select l.name, l.token from ${askedLocks} limit ${sql.lit(BATCH)} for update`,
    ),

    // As lockRowNow and createFree, of many names that had no row a moment ago.
    lockRowsNow: batched<{ name: Buffer }>(sql`select 1 from ${askedLocks} limit ${sql.lit(BATCH)} for update nowait`),
    createAllFree: batched<{ name: Buffer }>(sql`
        insert into ${locks} (name, token, expires_at)
        select asked.name, ${now}, ${now} from ${ASKED} as asked
        on duplicate key update token = token`),

    lockRow: (name: Buffer, waitMs: number): Statement => {
      const { text, values } = lockRow({ name })
      return { text: text.replace('select', `select /*+ MAX_EXECUTION_TIME(${Math.ceil(waitMs)}) */`), values }
    },

    // A hold that this transaction has, if it has not been undone with a savepoint. Its row is locked by this transaction then,
    // so a read that does not wait finds it; at SERIALIZABLE a plain one would wait for whoever else has the row.
    ownHold: (asked: OwnHold): Statement => {
      const { text, values } = ownHold(asked)
      return { text: `${text} nowait`, values }
    },
    ownHoldInMariadb: (asked: OwnHold, limits: string): Statement => limited(ownHold(asked), limits),

    // What the transaction has already is to become a lease with its commit.
    keepAsLease: statement<OwnHold & { owner: Buffer; ttl: number }>(
      engine,
      (p) => sql`
        update ${locks}
        set expires_at = ${now} + ${p.ttl} * 1000, owner = ${p.owner}
        where name = ${p.name} and token = ${p.token} and handed_to = ${p.mark}`,
    ),
  }
}

interface TransactionHold {
  readonly owner: string
  readonly token: bigint
  readonly mark: string
}

/** From outside it can be seen that the transaction which had this hold has ended. */
function isOver({ owner, token, mark }: TransactionHold, seen: Row): boolean {
  return seen.token > token || seen.handedTo === mark || (seen.held && seen.owner !== owner)
}

/** In seconds; 0 is none. */
const IDLE_LIMITS = ['idle_transaction_timeout', 'idle_write_transaction_timeout', 'idle_readonly_transaction_timeout']

type Refusal = Extract<AttemptInResult, { granted: false }>

const BY_A_TRANSACTION: Refusal = { granted: false, holders: [], queued: false }

export function within<Tx>(context: Context<Tx>): Pick<Required<Store<Tx>>, 'acquireIn' | 'acquireFreeIn'> {
  const { runner, own, server, fragments, read, steps } = context
  const statements = withinStatements(fragments)
  const { forceRelease } = administrationStatements(fragments)

  /** Holds of transactions that may be open, by their handles, of which one may serve one transaction after the other. */
  const holdsOf = new WeakMap<object, Map<string, TransactionHold>>()

  /** The last call in each transaction, by its handle. Each ends without an error. */
  const lastIn = new WeakMap<object, Promise<unknown>>()

  /** Calls in one transaction take several messages each: one between those of another would take a lock that both want twice. */
  function inTurn<T>(tx: Tx, call: () => Promise<T>): Promise<T> {
    // No handle of a transaction, as the adapter will say.
    if (Object(tx) !== tx) return call()
    const key = tx as object
    const answer = (lastIn.get(key) ?? Promise.resolve()).then(call)
    lastIn.set(
      key,
      answer.catch(() => undefined),
    )
    return answer
  }

  /**
   * Looked at from outside first. In the transaction, a plain read would fix its snapshot; and at REPEATABLE READ even a
   * locking read that finds nothing would keep a gap locked, or the row of a holder who has to renew. Then it takes what is
   * free, by a statement that waits for nobody, and else waits behind the transactions that have the row.
   */
  async function takeIn(tx: Tx, attempt: ExclusiveAttempt, waitMs: number): Promise<AttemptInResult> {
    await knowServer(tx)
    const { row, maybeLocked } = await lookFromOutside(attempt.name)
    const same = await ownHold(tx, attempt, row)
    if (same !== undefined) return { granted: true, ...same }
    if (row !== undefined && !suits(row, attempt)) {
      return { granted: false, holders: [], queued: false, kind: kindOf(row) }
    }
    if (row?.shared) {
      const refusal = await clearFromOutside(attempt)
      if (refusal !== undefined) return { ...refusal, idleLimitMs: await showLife(tx) }
    }
    if (row !== undefined && row.owner !== attempt.owner && (row.held || row.leasesWait)) {
      const idleLimitMs = await showLife(tx)
      return { granted: false, holders: row.held ? [row.label] : [], queued: !row.held, idleLimitMs }
    }
    const mark = newMark()
    const { session: _, ...rest } = toAskedAttempt(attempt, row?.sessionGone ? row.session : null)
    const asked = { ...rest, mark: bytes(mark) }
    if (row === undefined && !(await createWithin(tx, asked.name, maybeLocked, waitMs))) return BY_A_TRANSACTION
    const token = await takeWithin(tx, asked, waitMs)
    if (token === undefined) return BY_A_TRANSACTION
    const hold = { owner: attempt.owner, token, mark }
    remember(tx, attempt.name, hold)
    return { granted: true, owner: hold.owner, token }
  }

  /** Asked in the transaction: there may be no other connection, and it is this one whose answers are read. It takes no snapshot. */
  async function knowServer(tx: Tx): Promise<void> {
    if (!server.isKnown) await server.ask(async (query) => runner.runIn(tx, query, (answer) => answer))
  }

  /** The first ones that look free from outside, together, unless another transaction has one of them. */
  async function takeFreeIn(tx: Tx, attempts: readonly Attempt[]): Promise<Hold[]> {
    await knowServer(tx)
    const { settings } = await server.topology()
    // There, a lock that is not free would end the transaction.
    if (rollsBackOnTimeout(settings)) return []
    const rows = await own.outside(() => lookAtAll(attempts))
    if (rows === undefined) return []
    const taken = holdsOf.get(tx as object)
    const isFree = ({ name }: Attempt) => {
      const row = rows.get(name)
      return row !== undefined && !row.held && !row.leasesWait && !row.shared && taken?.has(name) !== true
    }
    const unfree = attempts.findIndex((attempt) => !isFree(attempt))
    const free = unfree === -1 ? attempts : attempts.slice(0, unfree)
    if (free.length === 0) return []
    const mark = newMark()
    const asked = free.map(({ name, holder }) => {
      const row = rows.get(name)!
      return {
        name: bytes(name),
        holder: bytes(holder),
        deadSession: row.sessionGone ? row.session : null,
        mark: bytes(mark),
      }
    })
    const result = await unlessLocked(settings, async () =>
      runner.runIn(tx, statements.takeFree(asked), (answer) => answer),
    )
    if (result === undefined) {
      await checkLocked(free)
      return []
    }
    if (result.inTransaction === false) throw noTransaction('within(tx)')
    if (Number(result.affectedRows) !== free.length) throw leaseCameFirst()
    const tokens = await runner.runIn(
      tx,
      statements.tokens(asked.map(({ name }) => ({ name }))),
      ({ rows }) => new Map(rows.map((row) => [text(row.name), BigInt(row.token as string)])),
    )
    return free.map(({ name, owner }) => {
      const token = tokens.get(name)!
      remember(tx, name, { owner, token, mark })
      return { name, owner, token }
    })
  }

  /** What a statement that was ended has locked until then stays locked. It must not be the row of a lease, which has to be renewed. */
  async function checkLocked(attempts: readonly Attempt[]): Promise<void> {
    const rows = await own.outside(() => read(attempts))
    for (const row of rows?.values() ?? []) if (row.held) throw leaseCameFirst()
  }

  /** Makes the rows that are missing, unless a transaction is creating one of them. */
  async function lookAtAll(attempts: readonly Attempt[]): Promise<Map<string, Row>> {
    const rows = await read(attempts)
    const missing = attempts.filter(({ name }) => !rows.has(name)).map(({ name }) => ({ name: bytes(name) }))
    if (missing.length === 0) return rows
    const { settings } = await server.topology()
    await unlessLocked(settings, async () => {
      const { rows: created } = await runner.keep(statements.lockRowsNow(missing))
      if (created.length === 0) await runner.keep(statements.createAllFree(missing))
    })
    return read(attempts)
  }

  function remember(tx: Tx, name: string, hold: TransactionHold): void {
    if (!holdsOf.has(tx as object)) holdsOf.set(tx as object, new Map())
    holdsOf.get(tx as object)!.set(name, hold)
  }

  /**
   * Takes off what shared holds have left that have ended: in the transaction, that would lock their slots until it ends. Answers
   * why the lock cannot be had, if holds are left.
   */
  async function clearFromOutside(attempt: ExclusiveAttempt): Promise<Refusal | undefined> {
    const asked = { ...attempt, ttlMs: null }
    const reply = await own.outside(() =>
      steps.step<AttemptInResult>(attempt.name, BY_A_TRANSACTION, (row, world) => decide(row, asked, undefined, world)),
    )
    return reply === undefined || reply.granted ? undefined : reply
  }

  /** MariaDB may end transactions in which nothing is sent for some time: this one is about to wait elsewhere. Answers that time. */
  async function showLife(tx: Tx): Promise<number> {
    const { settings } = await server.topology()
    const limits = IDLE_LIMITS.map((name) => Number(settings[name] ?? 0) * 1000).filter((limitMs) => limitMs > 0)
    if (limits.length === 0) return 0
    await runner.runIn(tx, { text: 'do 0', values: [] }, () => undefined)
    return Math.min(...limits)
  }

  /** Rows that are being made from outside. A second INSERT would wait for who has locked the row of the first meanwhile. */
  const making = new Map<string, Promise<void>>()

  /**
   * Makes the row, if there is none yet: in a transaction, its lock would keep everybody from that name. There is no row in
   * the answer if there is no connection to look from, or if an open transaction has created it: it may be locked then.
   */
  async function lookFromOutside(name: string): Promise<{ row?: Row | undefined; maybeLocked: boolean }> {
    const answer = await own.outside(async () => {
      const row = (await read([{ name }])).get(name)
      if (row !== undefined) return { row, maybeLocked: false }
      try {
        const made = making.get(name) ?? makeRow(name).finally(() => making.delete(name))
        making.set(name, made)
        await made
      } catch (error) {
        if (isLocked(error)) return { maybeLocked: true }
        throw error
      }
      return { row: (await read([{ name }])).get(name), maybeLocked: false }
    })
    return answer ?? { maybeLocked: true }
  }

  async function makeRow(name: string): Promise<void> {
    const { dialect } = await server.topology()
    if (dialect === 'mariadb') {
      await runner.keep(statements.createFreeInMariadb({ name: bytes(name) }, NO_WAIT))
      return
    }
    const { rows } = await runner.keep(statements.lockRowNow({ name: bytes(name) }))
    if (rows.length === 0) await runner.keep(statements.createFree({ name: bytes(name) }))
  }

  /** Makes the row in the transaction, for want of another connection; false if the wait for another's row ends first. */
  async function createWithin(tx: Tx, name: Buffer, maybeLocked: boolean, waitMs: number): Promise<boolean> {
    const { dialect, settings } = await server.topology()
    const create = async (query: Statement) => {
      await runner.runIn(tx, query, () => undefined)
      return true
    }
    if (dialect === 'mariadb') {
      const limits = limitsOf(settings, waitMs)
      return (await unlessLocked(settings, () => create(statements.createFreeInMariadb({ name }, limits)))) ?? false
    }
    // Only a SELECT can be limited.
    if (maybeLocked) {
      const exists = await lockRow(tx, name, settings, waitMs)
      if (exists !== false) return exists === true
    }
    return create(statements.createFree({ name }))
  }

  /** What is committed, or followed by another hold, is not what an open transaction holds: its handle serves another one now. */
  async function ownHold(
    tx: Tx,
    { name, ttlMs }: ExclusiveAttempt,
    seen: Row | undefined,
  ): Promise<Pick<TransactionHold, 'owner' | 'token'> | undefined> {
    const hold = holdsOf.get(tx as object)?.get(name)
    if (hold === undefined || (seen !== undefined && isOver(hold, seen))) return undefined
    const { owner, token } = hold
    const { dialect, settings } = await server.topology()
    const asked = { name: bytes(name), token, mark: bytes(hold.mark) }
    const query =
      dialect === 'mariadb' ? statements.ownHoldInMariadb(asked, limitsOf(settings, 0)) : statements.ownHold(asked)
    const stands = await unlessLocked(settings, async () => runner.runIn(tx, query, ({ rows }) => rows.length === 1))
    if (stands !== true) return undefined
    if (ttlMs !== null) {
      const keep = statements.keepAsLease({ ...asked, owner: bytes(owner), ttl: ttlMs })
      await runner.runIn(tx, keep, () => undefined)
    }
    return { owner, token }
  }

  /** Of MySQL. Whether there is such a row, which is locked now; undefined if the wait for it has ended first. */
  async function lockRow(tx: Tx, name: Buffer, settings: Settings, waitMs: number): Promise<boolean | undefined> {
    if (waitMs <= 0) {
      const query = statements.lockRowNow({ name })
      return unlessLocked(settings, async () => runner.runIn(tx, query, ({ rows }) => rows.length > 0))
    }
    let limitMs = waitMs
    if (rollsBackOnTimeout(settings)) {
      // The statement's own limit has to end it, and not the session's with all that the transaction has done.
      const query = { text: 'select @@innodb_lock_wait_timeout as seconds', values: [] }
      const seconds = await runner.runIn(tx, query, ({ rows: [row] }) => toNumber(row?.seconds))
      limitMs = Math.min(waitMs, seconds * 1000 * PART_OF_ROW_WAIT)
    }
    return unlessLocked(settings, async () =>
      runner.runIn(tx, statements.lockRow(name, limitMs), ({ rows }) => rows.length > 0),
    )
  }

  /** The token; undefined if another transaction has the row. */
  async function takeWithin(tx: Tx, asked: AskedWithin, waitMs: number): Promise<bigint | undefined> {
    const { dialect, settings } = await server.topology()
    const take = async (query: Statement) => {
      const result = await runner.runIn(tx, query, (answer) => answer)
      if (result.inTransaction === false) {
        // It has committed: a lease must be undone.
        if (asked.ttl !== null) await runner.run(forceRelease({ name: asked.name, token: null }))
        throw noTransaction('within(tx)')
      }
      const token = await tokenAfter(context, tx, text(asked.name), result)
      // InnoDB may have locked the row of somebody's lease, which must not last.
      if (token === 0n) throw leaseCameFirst()
      return token
    }
    if (dialect === 'mariadb') {
      const limits = limitsOf(settings, waitMs)
      return unlessLocked(settings, () => take(statements.takeRowInMariadb(asked, limits)))
    }
    const token = await unlessLocked(settings, () => take(statements.takeRowNow(asked)))
    if (token !== undefined || waitMs <= 0) return token
    return (await lockRow(tx, asked.name, settings, waitMs)) ? take(statements.takeRow(asked)) : undefined
  }

  return {
    acquireIn: (tx, attempt, waitMs) => inTurn(tx, () => takeIn(tx, attempt, waitMs)),
    acquireFreeIn: (tx, attempts) => inTurn(tx, () => takeFreeIn(tx, attempts)),
  }
}

function newMark(): string {
  return `transaction ${randomBytes(16).toString('hex')}`
}

function leaseCameFirst(): LockError {
  return transactionAborted(new Error('a lease came first to the lock that this transaction was waiting for'))
}
