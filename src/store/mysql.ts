import { randomBytes } from 'node:crypto'
import type { Result, SqlAdapter, Statement } from '../adapters/adapter.ts'
import { DatabaseError, LockError } from '../errors.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrate.ts'
import type { OwnConnection } from '../own-connection.ts'
import { BATCH, mysqlStatements } from './mysql-statements.ts'
import { checkRow, otherShape, toNumber } from './shape.ts'
import {
  cutShort,
  databaseError,
  isConnectionFailure,
  isPoolTimeout,
  missingRight,
  noRoom,
  noTransaction,
  notMigrated,
  Runner,
  readOnly,
  transactionAborted,
} from './statement.ts'
import type {
  Arrival,
  ArrivalResult,
  Attempt,
  AttemptInResult,
  AttemptResult,
  Departure,
  DepartureResult,
  Grant,
  GuardResult,
  Hold,
  HolderSession,
  LockState,
  ReleaseResult,
  Renewal,
  Settlement,
  Sight,
  Store,
} from './store.ts'
import { afterAllCommits, assess, readTopology, sessionRefusal, type Topology } from './topology.ts'

/** GET_LOCK names belong to the whole server: processes that migrate the same tables take turns. At most 64 characters. */
const MIGRATION_LOCK = "concat('rowlock:migrate:', left(sha2(concat(database(), ' ', ?), 256), 40))"
/** How long they wait for it. */
const MIGRATION_WAIT_SECONDS = 60

/** An entry is dead after that time, even if somebody waits for longer; that caller queues again. */
const LONGEST_WAIT_MS = 24 * 60 * 60 * 1000

const BY_A_TRANSACTION: AttemptInResult = { granted: false, holder: null, queued: false }
const REFUSED: AttemptResult = { granted: false, holder: null, queued: false }
const OURS: AttemptResult = { granted: false, holder: null, queued: false, ours: true }
const LOST: ReleaseResult = { outcome: 'lost', handedOver: false, grant: null, unsettled: false }
const LOCKED: ReleaseResult = { ...LOST, outcome: 'locked' }
const RELEASED: ReleaseResult = { ...LOST, outcome: 'released' }

/**
 * One lock is one statement, where that can tell what it did. Many locks are one statement, too, and a look at what became
 * of each of them: no statement here answers with rows that it changed.
 */
export function mysqlStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming, own: OwnConnection): Store<Tx> {
  const statements = mysqlStatements(naming)
  const table = tableName('mysql', 'locks', naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table), own)

  let topology: Topology | undefined
  /**
   * Asked by `send`, in a session like those that take locks. Each asks for itself until there is an answer: who waited for
   * another's question would hang with the connection that it was sent on.
   */
  async function askTopology(send: (query: Statement) => Promise<Result>): Promise<Topology> {
    topology = await readTopology('mysql', async (query) => {
      const { rows } = await send(query)
      for (const row of rows) checkRow(row, 'Variable_name')
      return { rows }
    })
    return topology
  }

  const knownTopology = async () => topology ?? askTopology((query) => runner.keep(query))

  async function look(items: readonly { readonly name: string }[]): Promise<Map<string, Row>> {
    const query = statements.look(items.map(({ name }) => bytes(name)))
    const { rows } = await runner.keep(afterAllCommits(await knownTopology(), query))
    const found = byName(rows.map(toRow))
    const asked = new Set(items.map(({ name }) => name))
    for (const name of found.keys())
      if (!asked.has(name)) throw otherShape('the name of a lock that was asked for', name)
    return found
  }

  async function acquire(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const answers = new Map<string, AttemptResult>()
    const rows = await take(attempts, () => null, answers)
    const refused = attempts.filter(({ name }) => answers.get(name)?.granted !== true)
    const abandoned = refused.filter(({ name }) => rows.get(name)?.sessionGone)
    if (abandoned.length > 0) await take(abandoned, ({ name }) => rows.get(name)!.session, answers)
    const unheardOf = refused.filter(({ name }) => !rows.has(name))
    if (unheardOf.length > 0) await create(unheardOf, answers)
    return attempts.map(({ name }) => answers.get(name)!)
  }

  /** Takes what is free, and answers the rows unless that is clear without them. */
  async function take(
    attempts: readonly Attempt[],
    deadSession: (attempt: Attempt) => Buffer | null,
    answers: Map<string, AttemptResult>,
  ): Promise<Map<string, Row>> {
    const sentAt = performance.now()
    const taken = await runner.run(
      statements.acquire(attempts.map((attempt) => toAskedAttempt(attempt, deadSession(attempt)))),
    )
    if (attempts.length === 1 && tokenOf(taken) !== 0n) {
      answers.set(attempts[0]!.name, granted(tokenOf(taken)))
      return new Map()
    }
    const rows = await look(attempts)
    const elapsedMs = performance.now() - sentAt
    let seen = 0
    for (const attempt of attempts) {
      const result = judge(attempt, rows.get(attempt.name), elapsedMs)
      if (result.granted) seen++
      answers.set(attempt.name, result)
    }
    // Not the newest state, as of another node of a cluster: attempts may be repeated.
    if (seen < Number(taken.affectedRows)) throw databaseError('connection', new Error('the answer was out of date'))
    return rows
  }

  async function create(attempts: readonly Attempt[], answers: Map<string, AttemptResult>): Promise<void> {
    const sentAt = performance.now()
    const created = await runner.run(statements.create(attempts.map((attempt) => toAskedAttempt(attempt, null))))
    if (attempts.length === 1) {
      if (tokenOf(created) !== 0n) answers.set(attempts[0]!.name, granted(tokenOf(created)))
      return
    }
    const rows = await look(attempts)
    const elapsedMs = performance.now() - sentAt
    for (const attempt of attempts) answers.set(attempt.name, judge(attempt, rows.get(attempt.name), elapsedMs))
  }

  async function lookAtChanges(items: readonly { readonly name: string }[]) {
    const { rows } = await runner.keep(statements.changes(items.map(({ name }) => bytes(name))))
    return byName(rows.map((row) => ({ ...toRow(row), changes: toList(row.changes), waiters: Number(row.waiters) })))
  }

  async function enqueue(arrivals: readonly Arrival[], maxWaiters: number): Promise<ArrivalResult[]> {
    const { affectedRows } = await runner.keep(
      statements.enqueue(
        arrivals.map(({ name, entry, joins, count, ttlMs, holder, session, process, transaction, waitMs }) => ({
          name: bytes(name),
          entry: bytes(entry),
          joins: bytesOrNull(joins),
          count,
          ttl: ttlMs,
          holder: bytes(holder),
          session: bytesOrNull(session),
          process: bytes(process),
          transaction: transaction ? (1 as const) : (0 as const),
          wait: Math.min(waitMs, LONGEST_WAIT_MS),
          most: maxWaiters,
        })),
      ),
    )
    const queues = await lookAtChanges(arrivals)
    return arrivals.map(({ name, entry, joins, count }) => {
      const row = queues.get(name)
      if (row === undefined) return { outcome: 'missing' }
      // An entry whose turn has come since is not in the queue any more.
      const isOurs = row.entries.includes(entry) || row.owner?.startsWith(entry) === true
      if (isOurs || row.changes.includes(entry) || Number(affectedRows) === arrivals.length) {
        return { outcome: 'queued', entry: isOurs ? entry : (joins ?? entry), sight: toSight(row) }
      }
      return { outcome: row.waiters + count > maxWaiters ? 'full' : 'locked' }
    })
  }

  async function leave(departures: readonly Departure[]): Promise<DepartureResult[]> {
    const departure = randomBytes(8).toString('hex')
    const { affectedRows } = await runner.keep(
      statements.leave(
        departures.map(({ name, entry, count }) => ({
          name: bytes(name),
          entry: bytes(entry),
          count,
          departure: bytes(departure),
        })),
      ),
    )
    const rows = await lookAtChanges(departures)
    const allLeft = Number(affectedRows) === departures.length
    return departures.map(({ name, entry }) => {
      const row = rows.get(name)
      const left = allLeft || !row?.entries.includes(entry) || row.changes.includes(departure)
      const grant = toGrant(row)
      return { left, grant: grant?.owner.startsWith(entry) ? grant : null }
    })
  }

  async function settle(names: readonly { readonly name: string }[]): Promise<Settlement[]> {
    const result = await runner.keep(
      statements.settle(names.map(({ name }) => ({ name: bytes(name), deadSession: null }))),
    )
    const rows = await look(names)
    const settlements: Settlement[] = []
    for (const { name } of names) {
      const settlement = toSettlement(rows.get(name), Number(result.affectedRows) > 0)
      settlements.push(settlement.outcome === 'locked' ? await settleBehindTheDead(name) : settlement)
    }
    return settlements
  }

  async function settleBehindTheDead(name: string): Promise<Settlement> {
    const [record] = (await runner.keep(statements.queue({ name: bytes(name) }))).rows
    const row = record && toRow(record)
    const settlement = toSettlement(row, false)
    if (row === undefined || settlement.outcome !== 'locked') return settlement
    const seen = bytes(text(record!.queue))
    const entries: Entry[] = JSON.parse(text(seen))
    // A hand-off that ran out unclaimed: its process is gone or stands still, so none of its callers is next.
    const gone = row.owner === null || row.handedTo === null ? undefined : bytes(row.handedTo).toString('hex')
    const living = entries.filter(
      ({ until, process }) => until > Number(record!.clock) && process.toLowerCase() !== gone,
    )
    if (gone !== undefined || living.length < entries.length) {
      const left = living.length === 0 ? null : bytes(JSON.stringify(living))
      const { affectedRows } = await runner.keep(
        statements.prune({ name: bytes(name), token: row.token, seen, living: left }),
      )
      if (Number(affectedRows) === 0) return settlement
    } else if (!row.sessionGone) {
      return settlement
    }
    const deadSession = row.sessionGone ? row.session : null
    const result = await runner.keep(statements.settle([{ name: bytes(name), deadSession }]))
    return toSettlement((await look([{ name }])).get(name), Number(result.affectedRows) > 0)
  }

  async function release(holds: readonly Hold[]): Promise<ReleaseResult[]> {
    const [only] = holds
    if (holds.length === 1) return [await releaseOne(only!)]
    // Looked at before as well, since the row of a lock that went on does not tell who gave it on.
    const before = await look(holds)
    const ours = holds.filter((hold) => isOurs(hold, before))
    if (ours.length === 0) return holds.map(() => LOST)
    const after = (await releaseAll(ours, before)) ? new Map<string, Row>() : await look(ours)
    return holds.map((hold) => {
      if (!isOurs(hold, before)) return LOST
      if (isOurs(hold, after)) return LOCKED
      const row = after.get(hold.name)
      if (row === undefined) return RELEASED
      const handedOver = row.token > hold.token
      return { ...RELEASED, handedOver, grant: toGrant(row), unsettled: !handedOver && row.awaited }
    })
  }

  /** Answers whether all of them are released, and handed over to nobody. */
  async function releaseAll(holds: readonly Hold[], rows: ReadonlyMap<string, Row>): Promise<boolean> {
    const asked = holds.map(toAskedHold)
    if (!holds.some(({ name }) => rows.get(name)!.awaited)) {
      const { affectedRows } = await runner.keep(statements.release(asked))
      if (Number(affectedRows) === holds.length) return true
    }
    await runner.keep(statements.handOver(asked))
    return false
  }

  async function releaseOne(hold: Hold): Promise<ReleaseResult> {
    // Others will wait, too, for a lock that had to be waited for.
    if (!wasHandedOver(hold)) {
      const released = await runner.keep(statements.release([toAskedHold(hold)]))
      if (Number(released.affectedRows) > 0) return RELEASED
    }
    const result = await runner.keep(statements.handOver([toAskedHold(hold)]))
    if (Number(result.affectedRows) === 0) return isOurs(hold, await look([hold])) ? LOCKED : LOST
    const token = tokenOf(result)
    return { ...RELEASED, handedOver: token > 0n, unsettled: token < 0n }
  }

  /** In two steps if the first one in the queue is dead: it is free in between, but nobody can barge. */
  async function passOverTheDead(holds: readonly Hold[], results: readonly ReleaseResult[]): Promise<ReleaseResult[]> {
    const settled: ReleaseResult[] = []
    for (const [index, result] of results.entries()) {
      if (!result.unsettled) {
        settled.push(result)
        continue
      }
      const { outcome, grant } = await settleBehindTheDead(holds[index]!.name)
      settled.push({ ...RELEASED, handedOver: outcome === 'handed over', grant, unsettled: outcome === 'locked' })
    }
    return settled
  }

  async function renew(holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<Renewal[]> {
    const sentAt = performance.now()
    const result = await runner.keep(statements.renew(holds.map(toAskedLease)))
    if (holds.length === 1 && tokenOf(result) !== 0n) {
      return [{ outcome: 'renewed', remainingMs: Number(result.insertId) / 1000 }]
    }
    if (Number(result.affectedRows) === holds.length) {
      return holds.map(({ ttlMs }) => ({ outcome: 'renewed', remainingMs: ttlMs }))
    }
    const rows = await look(holds)
    const elapsedMs = performance.now() - sentAt
    return holds.map((hold): Renewal => {
      const { remainingMs } = rows.get(hold.name) ?? { remainingMs: 0 }
      if (!isOurs(hold, rows) || remainingMs <= 0) return { outcome: 'lost', remainingMs: 0 }
      // The expiry was moved if no more of the ttl is gone than these two statements took.
      return { outcome: remainingMs >= hold.ttlMs - elapsedMs ? 'renewed' : 'held', remainingMs }
    })
  }

  /**
   * What last_insert_id() was set to; 0 if no row was reached. Where the driver does not pass that on, it would have to be asked
   * for, and what the caller inserts meanwhile sets it, too: there the row is read, which this transaction has locked.
   */
  async function tokenAfter(tx: Tx, name: string, result: Result): Promise<bigint> {
    if (adapter.tellsNoInsertId !== true) return tokenOf(result)
    if (Number(result.affectedRows ?? 0) === 0) return 0n
    return runner.runIn(tx, statements.token({ name: bytes(name) }), ({ rows: [row] }) => BigInt(row?.token as string))
  }

  async function guard(tx: Tx, holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<GuardResult[]> {
    const result = await runner.runIn(tx, statements.guard(holds.map(toAskedLease)), (answer) => answer)
    if (result.inTransaction === false) throw noTransaction('guard(tx)')
    if (holds.length === 1) return [(await tokenAfter(tx, holds[0]!.name, result)) === 0n ? 'lost' : 'stands']
    if (Number(result.affectedRows) === holds.length) return holds.map(() => 'stands')
    const results: GuardResult[] = []
    for (const hold of holds) results.push(...(await guard(tx, [hold])))
    return results
  }

  /** Holds of transactions that may be open, by their handles, of which one may serve one transaction after the other. */
  const holdsOf = new WeakMap<object, Map<string, TransactionHold>>()

  /**
   * Looked at from outside first. In the transaction, a plain read would fix its snapshot; and at REPEATABLE READ even a
   * locking read that finds nothing would keep a gap locked, or the row of a holder who has to renew. Then it takes what is
   * free, by a statement that waits for nobody, and else waits behind the transactions that have the row.
   */
  async function acquireIn(tx: Tx, attempt: Attempt, waitMs: number): Promise<AttemptInResult> {
    // Asked in the transaction if it is not known yet: there may be no other connection, and it is this one whose answers are
    // read. It takes no snapshot.
    if (topology === undefined) await askTopology(async (query) => runner.runIn(tx, query, (answer) => answer))
    const { row, isBeingCreated } = await lookFromOutside(attempt.name)
    const same = await ownHold(tx, attempt.name, row)
    if (same !== undefined) return { granted: true, ...same }
    if (row !== undefined && row.owner !== attempt.owner) {
      if (row.held) return { granted: false, holder: row.label, queued: false }
      if (row.leasesWait) return { granted: false, holder: null, queued: true }
    }
    const mark = `transaction ${randomBytes(16).toString('hex')}`
    const { session: _, ...rest } = toAskedAttempt(attempt, row?.sessionGone ? row.session : null)
    const asked = { ...rest, mark: bytes(mark) }
    if (row === undefined && !(await createWithin(tx, asked.name, isBeingCreated, waitMs))) return BY_A_TRANSACTION
    const token = await takeWithin(tx, asked, waitMs)
    if (token === undefined) return BY_A_TRANSACTION
    const hold = { owner: attempt.owner, token, mark }
    if (!holdsOf.has(tx as object)) holdsOf.set(tx as object, new Map())
    holdsOf.get(tx as object)!.set(attempt.name, hold)
    return { granted: true, owner: hold.owner, token }
  }

  /**
   * Makes the row, if there is none yet: in a transaction, its lock would keep everybody from that name. There is no row in
   * the answer if there is no connection to look from, or if an open transaction has created it.
   */
  async function lookFromOutside(name: string): Promise<{ row?: Row | undefined; isBeingCreated: boolean }> {
    const answer = await own.outside(async () => {
      const row = (await look([{ name }])).get(name)
      if (row !== undefined) return { row, isBeingCreated: false }
      const { dialect } = await knownTopology()
      try {
        if (dialect === 'mariadb') {
          await runner.keep(statements.createFreeInMariadb({ name: bytes(name) }, NO_WAIT))
        } else {
          await runner.keep(statements.isBeingCreated({ name: bytes(name) }))
          await runner.keep(statements.createFree({ name: bytes(name) }))
        }
      } catch (error) {
        if (isLocked(error)) return { isBeingCreated: true }
        throw error
      }
      return { row: (await look([{ name }])).get(name), isBeingCreated: false }
    })
    return answer ?? { isBeingCreated: false }
  }

  /** Makes the row in the transaction, for want of another connection; false if the wait for another's row ends first. */
  async function createWithin(tx: Tx, name: Buffer, isBeingCreated: boolean, waitMs: number): Promise<boolean> {
    const { dialect, settings } = await knownTopology()
    const create = async (query: Statement) => {
      await runner.runIn(tx, query, () => undefined)
      return true
    }
    if (dialect === 'mariadb') {
      const limits = limitsOf(settings, waitMs)
      return (await unlessLocked(settings, () => create(statements.createFreeInMariadb({ name }, limits)))) ?? false
    }
    // Only a SELECT can be limited.
    if (isBeingCreated && (waitMs <= 0 || (await lockRow(tx, name, settings, waitMs)) === undefined)) return false
    return create(statements.createFree({ name }))
  }

  /** What is committed, or followed by another hold, is not what an open transaction holds: its handle serves another one now. */
  async function ownHold(
    tx: Tx,
    name: string,
    seen: Row | undefined,
  ): Promise<Omit<TransactionHold, 'mark'> | undefined> {
    const hold = holdsOf.get(tx as object)?.get(name)
    if (hold === undefined) return undefined
    if (seen !== undefined && (seen.token > hold.token || seen.handedTo === hold.mark)) return undefined
    const query = statements.ownHold({ name: bytes(name), token: hold.token, mark: bytes(hold.mark) })
    const stands = await runner.runIn(tx, query, ({ rows }) => rows.length === 1)
    return stands ? { owner: hold.owner, token: hold.token } : undefined
  }

  /** Of MySQL. Whether there is such a row, which is locked now; undefined if the wait for it has ended first. */
  async function lockRow(tx: Tx, name: Buffer, settings: Settings, waitMs: number): Promise<boolean | undefined> {
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
    const { dialect, settings } = await knownTopology()
    const take = async (query: Statement) => {
      const result = await runner.runIn(tx, query, (answer) => answer)
      if (result.inTransaction === false) {
        // It has committed: a lease must be undone.
        if (asked.ttl !== null) await runner.run(statements.forceRelease({ name: asked.name }))
        throw noTransaction('within(tx)')
      }
      const token = await tokenAfter(tx, text(asked.name), result)
      // InnoDB may have locked the row of somebody's lease, which must not last.
      if (token === 0n) {
        throw transactionAborted(new Error('a lease came first to the lock that this transaction was waiting for'))
      }
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
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,
    guardsStopRenewal: true,
    acquire: (attempts) => inBatches(attempts, acquire),
    enqueue: (arrivals, maxWaiters) => inBatches(arrivals, (batch) => enqueue(batch, maxWaiters)),
    leave: (departures) => inBatches(departures, leave),
    release: (holds) => inBatches(holds, async (batch) => passOverTheDead(batch, await release(batch))),
    renew: (holds) => inBatches(holds, renew),
    guard: (tx, holds) => inBatches(holds, (batch) => guard(tx, batch)),

    settle: (names) =>
      inBatches(
        names.map((name) => ({ name })),
        settle,
      ),

    async look(names) {
      const sights = await inBatches(
        names.map((name) => ({ name })),
        async (batch) => {
          const rows = await look(batch)
          return batch.map(({ name }) => rows.get(name))
        },
      )
      return sights.filter((row) => row !== undefined).map(toSight)
    },

    acquireIn,

    async closeGates(asked) {
      await runner.keep(statements.closeGates(asked.map(({ name, by }) => ({ name: bytes(name), closer: bytes(by) }))))
    },

    async openGates(asked) {
      await runner.keep(statements.openGates(asked.map(({ name, by }) => ({ name: bytes(name), closer: bytes(by) }))))
    },

    async releaseIn(tx, hold) {
      // Asked beforehand: a release that has committed cannot be taken back.
      await runner.runIn(tx, { text: 'do 0', values: [] }, ({ inTransaction }) => {
        if (inTransaction === false) throw noTransaction('release(tx)')
      })
      const result = await runner.runIn(tx, statements.releaseIn(toAskedHold(hold)), (answer) => answer)
      const token = await tokenAfter(tx, hold.name, result)
      if (token === 0n) return 'lost'
      if (adapter.tellsNoInsertId !== true) return { awaited: token < 0n }
      const query = statements.awaited({ name: bytes(hold.name) })
      return runner.runIn(tx, query, ({ rows: [row] }) => ({ awaited: toNumber(row?.awaited) === 1 }))
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name: bytes(name) }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix: bytes(prefix) }))).rows.map(toState)
    },

    async forceRelease(name) {
      if (tokenOf(await runner.run(statements.forceRelease({ name: bytes(name) }))) !== 0n) return 'released'
      return (await this.inspect(name)) === null ? 'free' : 'locked'
    },

    async purge(idleMs) {
      const names = (await runner.run(statements.purgeable({ idleMs }))).rows.map((row) => bytes(text(row.name)))
      for (let from = 0; from < names.length; from += BATCH) {
        await runner.run(statements.purge(names.slice(from, from + BATCH).map((name) => ({ name, idleMs }))))
      }
      const left = (await runner.run(statements.purgeable({ idleMs }))).rows.length
      return Math.max(0, names.length - left)
    },

    async openSession(onLost): Promise<HolderSession> {
      const connection = await own.attach("takeover: 'session'")
      try {
        const refused = sessionRefusal(await readTopology('mysql', (query) => connection.query(query)))
        if (refused !== null) throw refused
        const id = `rowlock:${randomBytes(16).toString('hex')}`
        const { rows } = await connection.query({
          // In a session that is a proxy's own the lock would stay behind.
          text: 'select connection_id() as backend, case when coalesce(?, connection_id()) = connection_id() then get_lock(?, 0) end as locked',
          values: [connection.backendId ?? null, id],
        })
        if (connection.backendId !== undefined && connection.backendId !== Number(rows[0]?.backend)) {
          throw new LockError(
            'UNSUPPORTED',
            "takeover: 'session' needs a direct connection: a proxy that shares sessions stands between. Give fromMysql2 a direct pool as its sessions option, or use takeover: 'expiry'",
          )
        }
        if (Number(rows[0]?.locked) !== 1)
          throw new DatabaseError('other', 'the session lock could not be taken', { cause: undefined })
        // An idle session would be ended. This one is rowlock's own.
        await connection.query({ text: `set session wait_timeout = ${LONGEST_IDLE_SECONDS}`, values: [] })
        connection.onLost(onLost)
        return {
          id,
          ping: () => connection.query({ text: 'select 1', values: [] }),
          drop: async () => connection.drop?.(),
          async close() {
            await connection.query({ text: 'do release_lock(?)', values: [id] })
            await connection.close()
          },
        }
      } catch (error) {
        await connection.close()
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },

    async assess() {
      // On the pool: its sessions take the locks, and its driver's answers are what will be read.
      return assess(await askTopology((query) => runner.run(query)))
    },

    async migrate() {
      try {
        return await adapter.reserve(async (connection) => {
          const run = (query: string, values: unknown[] = []) => connection.query({ text: query, values })
          // The connection may go back to a pool, so the lock must go whatever happens, also if its own answer is unreadable.
          const unlock = () => run(`do release_lock(${MIGRATION_LOCK})`, [table])
          let pending: string[]
          try {
            const { rows } = await run(`select get_lock(${MIGRATION_LOCK}, ?) as locked`, [
              table,
              MIGRATION_WAIT_SECONDS,
            ])
            if (toNumber(checkRow(rows[0] ?? {}, 'locked').locked ?? 0) !== 1) {
              throw new LockError(
                'DATABASE',
                `another process has been migrating for ${MIGRATION_WAIT_SECONDS} s; look for it, or try again`,
              )
            }
            pending = await applyPending('mysql', naming, await applied(run, naming), run)
          } catch (error) {
            // What failed says more than that this failed, too: the connection may be gone, and the lock with it.
            await unlock().catch(() => undefined)
            throw error
          }
          await unlock()
          return pending
        })
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}

/** Names of the migrations that ran. Makes the table of them only if it is missing, for which an application may have no right. */
async function applied(run: (query: string) => Promise<Result>, naming: Naming): Promise<Set<string>> {
  try {
    const { rows } = await run(`select name from ${tableName('mysql', 'migrations', naming)}`)
    return new Set(rows.map((row) => text(row.name)))
  } catch (error) {
    if ((error as { errno?: unknown } | null | undefined)?.errno !== NO_SUCH_TABLE) throw error
    await run(historyStatement('mysql', naming))
    return new Set()
  }
}

/** In name order, so that no two batches wait for each other; answers in the order asked. */
async function inBatches<Item extends { readonly name: string }, Answer>(
  items: readonly Item[],
  run: (batch: readonly Item[]) => Promise<Answer[]>,
): Promise<Answer[]> {
  const sorted = [...items].sort((a, b) => (a.name < b.name ? -1 : 1))
  const answers = new Map<string, Answer>()
  for (let from = 0; from < sorted.length; from += BATCH) {
    const batch = sorted.slice(from, from + BATCH)
    const answered = await run(batch)
    for (const [index, { name }] of batch.entries()) answers.set(name, answered[index]!)
  }
  return items.map(({ name }) => answers.get(name)!)
}

/** A lock's row as it was when it was looked at. */
interface Row {
  readonly name: string
  readonly owner: string | null
  readonly token: bigint
  readonly label: string
  readonly session: Buffer | null
  readonly sessionGone: boolean
  readonly handedTo: string | null
  readonly takeover: boolean
  readonly remainingMs: number
  readonly held: boolean
  readonly awaited: boolean
  readonly leasesWait: boolean
  readonly entries: readonly string[]
}

/** What matters here of an entry of the queue. */
interface Entry {
  readonly until: number
  /** In hex. */
  readonly process: string
}

function toRow(row: Record<string, unknown>): Row {
  checkRow(row, 'name')
  const owner = textOrNull(row.owner)
  const sessionGone = toNumber(row.session_gone) === 1
  const remainingMs = toNumber(row.remaining)
  return {
    name: text(row.name),
    owner,
    token: BigInt(row.token as string | number),
    label: textOrNull(row.holder) ?? '',
    session: bytesOrNull(textOrNull(row.session)),
    sessionGone,
    handedTo: textOrNull(row.handed_to),
    takeover: toNumber(row.takeover) === 1,
    remainingMs,
    held: owner !== null && remainingMs > 0 && !sessionGone,
    awaited: toNumber(row.awaited) === 1,
    leasesWait: toNumber(row.leases_wait) === 1,
    entries: toList(row.entries),
  }
}

function toList(json: unknown): string[] {
  return json === null ? [] : JSON.parse(text(json))
}

function byName<R extends Row>(rows: readonly R[]): Map<string, R> {
  return new Map(rows.map((row) => [row.name, row]))
}

function isOurs(hold: Hold, rows: ReadonlyMap<string, Row>): boolean {
  const row = rows.get(hold.name)
  return row?.owner === hold.owner && row.token === hold.token
}

function wasHandedOver({ owner, token }: Hold): boolean {
  return owner.endsWith(token.toString(16).padStart(16, '0'))
}

function toSight(row: Row): Sight {
  const { name, owner, token, label, remainingMs, takeover, entries } = row
  return {
    name,
    holder: row.held ? { name, owner: owner!, token, label, remainingMs, takeover } : null,
    bySession: row.held && row.session !== null,
    ready: !row.held && row.awaited,
    leasesWait: row.leasesWait,
    entries,
  }
}

/** Null unless it was handed over and not claimed yet. */
function toGrant(row: Row | undefined): Grant | null {
  if (!row?.held || row.handedTo === null) return null
  const { name, owner, token, handedTo: process, remainingMs, takeover } = row
  return { name, owner: owner!, token, process, remainingMs, takeover }
}

/** Of a lock that was to be settled. */
function toSettlement(row: Row | undefined, changed: boolean): Settlement {
  const grant = changed ? toGrant(row) : null
  if (grant !== null) return { outcome: 'handed over', grant }
  if (row?.held) return { outcome: 'held', grant: null }
  return { outcome: row?.awaited ? 'locked' : 'idle', grant: null }
}

function judge(attempt: Attempt, row: Row | undefined, elapsedMs: number): AttemptResult {
  if (row === undefined) return REFUSED
  // It was granted now if no more of the ttl is gone than it took since.
  if (row.owner === attempt.owner && row.remainingMs >= (attempt.ttlMs ?? 0) - elapsedMs) {
    return { granted: true, token: row.token, takeover: row.takeover }
  }
  if (row.owner === attempt.owner) return OURS
  return row.held
    ? { granted: false, holder: row.label, queued: false }
    : { granted: false, holder: null, queued: row.awaited }
}

function toAskedAttempt({ name, owner, ttlMs, holder, session }: Attempt, deadSession: Buffer | null) {
  return {
    name: bytes(name),
    owner: bytes(owner),
    ttl: ttlMs,
    holder: bytes(holder),
    session: bytesOrNull(session),
    deadSession,
  }
}

function toAskedHold({ name, owner, token }: Hold) {
  return { name: bytes(name), owner: bytes(owner), token }
}

function toAskedLease(hold: Hold & { readonly ttlMs: number }) {
  return { ...toAskedHold(hold), ttl: hold.ttlMs }
}

function bytes(value: string): Buffer {
  return Buffer.from(value, 'utf8')
}

function bytesOrNull(value: string | null): Buffer | null {
  return value === null ? null : bytes(value)
}

function text(value: unknown): string {
  if (typeof value === 'string') return value
  if (!Buffer.isBuffer(value)) throw otherShape('bytes', value)
  return value.toString('utf8')
}

function textOrNull(value: unknown): string | null {
  return value === null ? null : text(value)
}

function tokenOf({ insertId }: Result): bigint {
  return BigInt(insertId ?? 0)
}

function granted(token: bigint): AttemptResult {
  return { granted: true, token: token < 0n ? -token : token, takeover: token < 0n }
}

function toState(record: Record<string, unknown>): LockState {
  const { name, owner, token, label, remainingMs } = toRow(record)
  return {
    name,
    owner: owner!,
    token,
    holder: label,
    expiresInMs: Math.max(0, remainingMs),
    waiters: Number(record.waiters),
  }
}

interface TransactionHold {
  readonly owner: string
  readonly token: bigint
  readonly mark: string
}

type AskedWithin = Parameters<ReturnType<typeof mysqlStatements>['takeRow']>[0]

/** A day; the session is pinged more often. */
const LONGEST_IDLE_SECONDS = 86_400
/** Longer than any wait: where the statement's own limit is to end it, this one must not come before. */
const LONGEST_ROW_WAIT_SECONDS = 3600
/** For a try on a server whose lock timeouts roll back whole transactions: long enough for a free lock to be taken. */
const SHORTEST_LIMIT_MS = 100
/** Of the time that a session lets statements wait for a row: a wait that is over by then is begun again. */
const PART_OF_ROW_WAIT = 0.7
const NO_WAIT = 'innodb_lock_wait_timeout=0'

/** What ends a wait whose statement has a limit of its own: MySQL's, and MariaDB's. */
const WAIT_LIMITED = 3024
const WAIT_LIMITED_MARIADB = 1969
const DEADLOCK = 1213
const LOCK_WAIT_TIMEOUT = 1205
const NO_WAIT_REFUSED = 3572
const CHANGED_SINCE_SNAPSHOT = 1020
/** Multi-primary Group Replication: another member was faster. */
const ROLLED_BACK_BY_CERTIFICATION = 3101
const CONFLICTS = [ROLLED_BACK_BY_CERTIFICATION, DEADLOCK, LOCK_WAIT_TIMEOUT, NO_WAIT_REFUSED, CHANGED_SINCE_SNAPSHOT]
const NO_SUCH_TABLE = 1146
const NO_SUCH_COLUMN = 1054
/**
 * Shutting down, killed, node not ready (Galera), server gone or lost, offline while failing over, or an error during COMMIT,
 * which may have taken effect.
 */
const NO_SERVER = [1053, 1317, 1927, 1047, 2006, 2013, 4031, 1180, 3032, 3100]
/** The driver `mariadb` numbers its own errors, too: connection or pool closed, cut off, or not there in time. */
const NO_CONNECTION = [45001, 45004, 45009, 45012, 45013, 45019, 45026, 45042, 45061]
/** The server (1290, 1836), the session or the transaction (1792). */
const READ_ONLY = [1290, 1836, 1792]
/**
 * Too many connections of all users (1040), of this one (1203), or this hour (1226), no thread for one (1135), no memory
 * (1037, 1038, 1041), no place on the disk (1021, 1114) or for locks (1206), none left in the pool of the driver `mariadb`.
 */
const NO_ROOM = [1040, 1203, 1226, 1135, 1037, 1038, 1041, 1021, 1114, 1206, 45028]
/** max_statement_time of MariaDB, max_execution_time of MySQL. */
const STATEMENT_TIMEOUT = [1969, 3024]
/** On the database, on the table, on a column. */
const NO_RIGHT = [1044, 1142, 1143]

type Settings = Topology['settings']

function rollsBackOnTimeout(settings: Settings): boolean {
  return settings.innodb_rollback_on_timeout === 'on'
}

/** For one statement of MariaDB that may wait for so long. */
function limitsOf(settings: Settings, waitMs: number): string {
  const limitMs = waitMs > 0 || !rollsBackOnTimeout(settings) ? waitMs : SHORTEST_LIMIT_MS
  return limitMs > 0
    ? `max_statement_time=${limitMs / 1000}, innodb_lock_wait_timeout=${LONGEST_ROW_WAIT_SECONDS}`
    : NO_WAIT
}

/** Whether a statement was ended since somebody has the row. 1205 may have ended more than the statement. */
function isLocked(error: unknown): boolean {
  const errno = error instanceof LockError ? errnoOf(error.cause) : undefined
  return [WAIT_LIMITED, WAIT_LIMITED_MARIADB, NO_WAIT_REFUSED, LOCK_WAIT_TIMEOUT].includes(errno as number)
}

/** Undefined if somebody has the row, and the transaction is as it was. */
async function unlessLocked<T>(settings: Settings, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    const isAllLost = rollsBackOnTimeout(settings) && errnoOf((error as Error).cause) === LOCK_WAIT_TIMEOUT
    if (!isLocked(error) || isAllLost) throw error
    return undefined
  }
}

function errnoOf(error: unknown): unknown {
  return (error as { errno?: unknown } | null | undefined)?.errno
}

/** Another node was faster. Nothing but the text tells it from other errors during COMMIT. */
function isLostRace(error: unknown): boolean {
  return errnoOf(error) === 1180 && /error 149\b/.test((error as Error).message)
}

function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  const errno = errnoOf(error)
  if (isPoolTimeout(error)) return noRoom(error)
  if (typeof errno !== 'number' || errno < 0) {
    return databaseError(isConnectionFailure(error) ? 'connection' : 'other', error)
  }
  if (errno === NO_SUCH_TABLE || errno === NO_SUCH_COLUMN) return notMigrated(table, error)
  if (CONFLICTS.includes(errno) || isLostRace(error))
    return inTransaction ? transactionAborted(error) : databaseError('conflict', error)
  if (READ_ONLY.includes(errno)) return readOnly(error)
  if (NO_ROOM.includes(errno)) return noRoom(error)
  if (NO_RIGHT.includes(errno)) return missingRight(table, error)
  if (STATEMENT_TIMEOUT.includes(errno) && !inTransaction) return cutShort(error)
  return databaseError([...NO_SERVER, ...NO_CONNECTION].includes(errno) ? 'connection' : 'other', error)
}
