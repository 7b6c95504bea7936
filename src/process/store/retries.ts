import pRetry from 'p-retry'
import { DatabaseError } from '../../base/errors.ts'
import { bounded, noAnswerIn, openedInTime } from '../../base/timing.ts'
import type { Store } from '../../protocol/store.ts'

/** How often an idempotent statement is repeated when the connection breaks under it; more is for the caller to decide. */
const CONNECTION_RETRIES = 2
/**
 * Between repetitions, up to twice as long at random. Short and never longer, since whoever writes to a file of SQLite in turn
 * with others meets it free for moments only, and a try costs microseconds.
 */
const PAUSE_MS = 4

/**
 * A decorator of a store: a statement that had no effect (serialization failure, deadlock, busy file) is repeated
 * until `timeoutMs`; one that had no answer, or met a server that was not ready, a few times, if repeating it is harmless; and no call lasts much longer than
 * `timeoutMs`, even if the pool never gives a connection. Only rowlock's own statements are ever repeated, never a
 * transaction of the caller's.
 */
export function withRetries<Tx>(store: Store<Tx>, timeoutMs: number): Store<Tx> {
  // A synchronous driver has answered when it returns: only conflicts take time there, and they are repeated until then.
  const inTime = <T>(call: Promise<T>) => (store.synchronous ? call : bounded(call, timeoutMs))
  // Its caller goes on to roll back: behind what has no answer, so that nothing of it lasts.
  const inTransaction = <T>(answer: Promise<T>, limitMs = timeoutMs) =>
    store.synchronous ? answer : bounded(answer, limitMs, () => noAnswerIn(limitMs))
  const onConflict = <T>(call: () => Promise<T>) => repeat(call, timeoutMs, 0)
  const harmless = <T>(call: () => Promise<T>) => inTime(repeat(call, timeoutMs, 0))
  const idempotent = <T>(call: () => Promise<T>) => inTime(repeat(call, timeoutMs, CONNECTION_RETRIES))
  const {
    assertOpen,
    acquireFreeIn,
    createRows,
    readsSnapshot,
    pollTransactions,
    closeGates,
    openGates,
    assess,
    guardedQuery,
    listen,
    changingFile,
  } = store

  return {
    synchronous: store.synchronous,
    single: store.single,
    guardsStopRenewal: store.guardsStopRenewal ?? false,
    // The waiting loop bounds it, because a late grant must be given back.
    acquire: (attempts, beside) => onConflict(() => store.acquire(attempts, beside)),
    acquireIn: (tx, attempt, waitMs) => inTransaction(store.acquireIn(tx, attempt, waitMs), waitMs + timeoutMs),
    ...(acquireFreeIn && { acquireFreeIn: (tx, attempts) => inTransaction(acquireFreeIn.call(store, tx, attempts)) }),
    ...(createRows && { createRows: (names) => harmless(() => createRows.call(store, names)) }),
    adoptIn: (tx, hold) => {
      const answer = store.adoptIn(tx, hold)
      return answer instanceof Promise ? inTransaction(answer) : answer
    },
    ...(readsSnapshot && { readsSnapshot: (tx) => inTime(readsSnapshot.call(store, tx)) }),
    ...(pollTransactions && { pollTransactions: (names) => harmless(() => pollTransactions.call(store, names)) }),
    ...(closeGates && { closeGates: (names) => harmless(() => closeGates.call(store, names)) }),
    ...(openGates && { openGates: (names) => harmless(() => openGates.call(store, names)) }),
    enqueue: (tickets, maxWaiters) => harmless(() => store.enqueue(tickets, maxWaiters)),
    withdraw: (withdrawals) => harmless(() => store.withdraw(withdrawals)),
    poll: (names) => harmless(() => store.poll(names)),
    promote: (names, process) => harmless(() => store.promote(names, process)),
    releaseIn: (tx, hold) => inTransaction(store.releaseIn(tx, hold)),
    renew: (holds) => harmless(() => store.renew(holds)),
    release: async (holds, process) => {
      let ambiguous = false
      const results = await idempotent(async () => {
        try {
          return await store.release(holds, process)
        } catch (error) {
          ambiguous ||= error instanceof DatabaseError && error.failure === 'connection'
          throw error
        }
      })
      // Not ours after an attempt that may have worked: it did work. Whoever waits will find out by its poll.
      return ambiguous
        ? results.map((result) => (result.outcome === 'lost' ? { ...result, outcome: 'released' } : result))
        : results
    },
    downgrade: (hold, process) => idempotent(() => store.downgrade(hold, process)),
    guard: (tx, holds) => {
      const answer = store.guard(tx, holds)
      return answer instanceof Promise ? inTransaction(answer) : answer
    },
    ...(assertOpen && { assertOpen: assertOpen.bind(store) }),
    // What the caller's own statements may take, the caller's settings say.
    query: (tx, query) => store.query(tx, query),
    ...(guardedQuery && { guardedQuery: guardedQuery.bind(store) }),
    inspect: (name, beside) => idempotent(() => store.inspect(name, beside)),
    list: (prefix) => idempotent(() => store.list(prefix)),
    openSemaphore: (name, permits) => idempotent(() => store.openSemaphore(name, permits)),
    resize: (name, permits, process) => idempotent(() => store.resize(name, permits, process)),
    available: (name) => idempotent(() => store.available(name)),
    forceRelease: (name, token) => idempotent(() => store.forceRelease(name, token)),
    purge: (idleMs) => harmless(() => store.purge(idleMs)),
    publishWaits: (process, waits) => harmless(() => store.publishWaits(process, waits)),
    readMarks: (kind, names, beside) => idempotent(() => store.readMarks(kind, names, beside)),
    writeMarkUnder: (hold, mark) => idempotent(() => store.writeMarkUnder(hold, mark)),
    writeMark: (mark, beside) => idempotent(() => store.writeMark(mark, beside)),
    deleteMark: (mark) => idempotent(() => store.deleteMark(mark)),
    beginMarkIn: (tx, mark) => inTransaction(store.beginMarkIn(tx, mark)),
    writeMarkIn: (tx, mark) => inTransaction(store.writeMarkIn(tx, mark)),
    deleteMarkIn: (tx, key) => inTransaction(store.deleteMarkIn(tx, key)),
    openSession: (onLost) => boundedSession(store.openSession(onLost), timeoutMs),
    ...(listen && {
      listen: (process, onGrant, onLost) => boundedSession(listen.call(store, process, onGrant, onLost), timeoutMs),
    }),
    ...(assess && { assess: (beside) => idempotent(() => assess.call(store, beside)) }),
    ...(changingFile && { changingFile: changingFile.bind(store) }),
    migrate: () => onConflict(() => store.migrate()),
  }
}

async function boundedSession<
  Session extends { ping?(): Promise<unknown>; drop?(): Promise<void>; close(): Promise<void> },
>(opening: Promise<Session>, timeoutMs: number): Promise<Session> {
  const session = await openedInTime(opening, timeoutMs)
  return {
    ...session,
    ...(session.ping && { ping: () => bounded(session.ping!(), timeoutMs) }),
    close: () => bounded(session.close(), timeoutMs),
  }
}

async function repeat<T>(call: () => Promise<T>, timeoutMs: number, connectionRetries: number): Promise<T> {
  let broken = 0
  const mayRepeat = (error: unknown) => {
    if (!(error instanceof DatabaseError)) return false
    if (error.failure === 'conflict') return true
    return error.failure !== 'other' && ++broken <= connectionRetries
  }
  try {
    // Almost all calls work at once, and need no machinery.
    return await call()
  } catch (error) {
    if (!mayRepeat(error)) throw error
  }
  return pRetry(call, {
    retries: Number.POSITIVE_INFINITY,
    maxRetryTime: timeoutMs,
    minTimeout: PAUSE_MS,
    factor: 1,
    randomize: true,
    shouldRetry: ({ error }) => mayRepeat(error),
  })
}
