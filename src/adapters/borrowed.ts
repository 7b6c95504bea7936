import { DatabaseError } from '../errors.ts'
import { isConnectionFailure } from '../store/statement.ts'
import { type Connection, type DedicatedConnection, Loss } from './adapter.ts'

/** Whether the pool has a connection beside the one that is kept shows within that time, or it is taken to have none. */
const SECOND_CONNECTION_MS = 100

type Reserve = <T>(use: (connection: Connection) => Promise<T>) => Promise<T>

interface Kept {
  readonly connection: Connection
  giveBack(): Promise<void>
}

/**
 * A connection of the pool's, kept until it is closed, for adapters that can open none beside it. Not if it is the only one, of
 * which the application would be deprived.
 */
export async function borrowed(reserve: Reserve): Promise<DedicatedConnection> {
  const kept = await keep(reserve)
  const second = keep(reserve).then((other) => other.giveBack())
  let timer: NodeJS.Timeout | undefined
  const isOnly = await Promise.race([
    second.then(() => false),
    new Promise<true>((resolve) => {
      timer = setTimeout(() => resolve(true), SECOND_CONNECTION_MS)
    }),
  ])
  clearTimeout(timer)
  if (isOnly) {
    await kept.giveBack()
    await second
    throw new DatabaseError('unavailable', 'the pool has no second connection at this moment', { cause: undefined })
  }
  const loss = new Loss()
  return {
    backendId: undefined,
    async query(statement) {
      try {
        return await kept.connection.query(statement)
      } catch (error) {
        if (isConnectionFailure(error)) loss.lose(error)
        throw error
      }
    },
    onLost: loss.onLost,
    async close() {
      loss.expect()
      await kept.giveBack()
    },
  }
}

function keep(reserve: Reserve): Promise<Kept> {
  return new Promise((resolve, reject) => {
    const ended = reserve(
      (connection) =>
        new Promise<void>((giveBack) => {
          resolve({
            connection,
            async giveBack() {
              giveBack()
              await ended
            },
          })
        }),
    )
    ended.catch(reject)
  })
}
