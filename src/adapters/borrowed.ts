import { DatabaseError } from '../base/errors.ts'
import { type Connection, type DedicatedConnection, Loss } from './adapter.ts'
import { isConnectionFailure } from './driver-errors.ts'

/** Whether the pool has a connection beside the one that is kept shows within that time, or it is taken to have none. */
const SECOND_CONNECTION_MS = 100
/** A pool that has had no other connection to give for so long may be short of the one that is kept. */
const SCARCE_MS = 5000
/** How often the connection is exchanged for another one of the pool's, which shows whether the pool is still there. */
const EXCHANGE_MS = 1000

type Reserve = <T>(use: (connection: Connection) => Promise<T>) => Promise<T>

interface Kept {
  readonly connection: Connection
  /** Once what has been asked on it is answered. */
  giveBack(): Promise<void>
}

/** Pools of which a connection is kept: of each one only, or many instances on one pool would use it up. */
const lending = new WeakSet<object>()

/**
 * Lends connections of a pool, for adapters that can open none beside it: one at a time, kept until it is closed. Not the only
 * one, of which the application would be deprived. A pool that is being ended waits for all of its connections, so the one that
 * is kept is exchanged now and then; the pool has no other one to give when it has ended.
 */
export function lender(pool: object, reserve: Reserve): () => Promise<DedicatedConnection> {
  let hasOthers = false
  return async () => {
    if (lending.has(pool)) {
      throw new DatabaseError('unavailable', 'another instance keeps a connection of this pool', { cause: undefined })
    }
    lending.add(pool)
    let kept: Kept
    try {
      kept = await keep(reserve)
    } catch (error) {
      lending.delete(pool)
      throw error
    }
    if (!hasOthers) {
      hasOthers = await hasAnother(reserve)
      if (!hasOthers) {
        await kept.giveBack()
        lending.delete(pool)
        throw new DatabaseError('unavailable', 'the pool has no second connection at this moment', { cause: undefined })
      }
    }
    const loss = new Loss()
    let exchanging = false
    let over = false
    let warn: ((message: string) => void) | undefined
    const exchange = async () => {
      if (exchanging) return
      exchanging = true
      const scarce = setTimeout(() => warn?.(SCARCE), SCARCE_MS).unref()
      try {
        const next = await keep(reserve)
        const former = over ? next : kept
        if (!over) kept = next
        await former.giveBack()
      } catch (error) {
        end(error)
      } finally {
        clearTimeout(scarce)
        exchanging = false
      }
    }
    const timer = setInterval(() => void exchange(), EXCHANGE_MS).unref()
    const end = (cause: unknown) => {
      over = true
      lending.delete(pool)
      clearInterval(timer)
      loss.lose(cause)
      void kept.giveBack()
    }
    return {
      backendId: undefined,
      async query(statement) {
        try {
          return await kept.connection.query(statement)
        } catch (error) {
          if (isConnectionFailure(error) || isSessionEnded(error)) end(error)
          throw error
        }
      },
      onLost: loss.onLost,
      onWarning(listener) {
        warn = listener
      },
      async close() {
        over = true
        lending.delete(pool)
        loss.expect()
        clearInterval(timer)
        await kept.giveBack()
      },
    }
  }
}

const SCARCE = `the pool has had no free connection for ${SCARCE_MS / 1000} s, and rowlock keeps one of its connections to renew leases: an application that waits for a connection while it holds another one may wait for ever. Enlarge the pool by one, or give the adapter the option sessions (fromPg or fromMysql2 of the same database)`

/** The server says so itself, before it closes the connection. */
function isSessionEnded(error: unknown): boolean {
  return String((error as { code?: unknown } | null)?.code).startsWith('57P')
}

async function hasAnother(reserve: Reserve): Promise<boolean> {
  const another = keep(reserve).then(async (other) => {
    await other.giveBack()
    return true
  })
  let timer: NodeJS.Timeout | undefined
  const none = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), SECOND_CONNECTION_MS)
  })
  try {
    return await Promise.race([another, none])
  } finally {
    clearTimeout(timer)
  }
}

function keep(reserve: Reserve): Promise<Kept> {
  return new Promise((resolve, reject) => {
    const asked = new Set<Promise<unknown>>()
    const ended = reserve(
      (connection) =>
        new Promise<void>((giveBack) => {
          resolve({
            connection: {
              query(statement) {
                const answer = connection.query(statement)
                asked.add(answer)
                const answered = () => void asked.delete(answer)
                answer.then(answered, answered)
                return answer
              },
            },
            async giveBack() {
              await Promise.allSettled(asked)
              giveBack()
              await ended
            },
          })
        }),
    )
    ended.catch(reject)
  })
}
