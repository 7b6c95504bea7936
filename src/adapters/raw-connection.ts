import { type DedicatedConnection, Loss, type Result, type SqlEngine } from './adapter.ts'
import { toResult } from './mysql-result.ts'
import { connectedMysql2, type RawMysql2Connection } from './mysql2-connection.ts'
import { connectedPg, type PgClient } from './pg-connection.ts'

/** A connection of the driver `mariadb`, of its promise or of its callback API. */
interface RawMariadbConnection {
  readonly threadId: number | null
  query(
    options: object,
    values: readonly unknown[],
    done?: (error: unknown, answer: unknown) => void,
  ): PromiseLike<unknown> | undefined
  on(event: string, listener: (cause?: unknown) => void): unknown
  destroy(): void
}

/** A connection of whatever driver an ORM uses, that it opened beside its pool. */
export async function connectedRaw(engine: SqlEngine, raw: unknown): Promise<DedicatedConnection> {
  if (engine === 'postgres') return connectedPg(raw as PgClient)
  if (typeof (raw as Partial<RawMysql2Connection>).promise === 'function') {
    return connectedMysql2(raw as RawMysql2Connection)
  }
  return connectedMariadb(raw as RawMariadbConnection)
}

function connectedMariadb(raw: RawMariadbConnection): DedicatedConnection {
  const loss = new Loss()
  raw.on('error', loss.lose)
  raw.on('end', () => loss.lose(new Error('the connection has ended')))
  return {
    backendId: raw.threadId ?? undefined,
    query: ({ text, values }) =>
      new Promise<Result>((resolve, reject) => {
        const options = {
          sql: text,
          rowsAsArray: false,
          nestTables: false,
          typeCast: (_: unknown, next: () => unknown) => next(),
        }
        const answered = (answer: unknown) => resolve(toResult([answer, undefined]))
        // The promise API takes no callback, and answers with a promise.
        raw
          .query(options, values, (error, answer) => (error ? reject(error) : answered(answer)))
          ?.then?.(answered, reject)
      }),
    onLost: loss.onLost,
    async close() {
      loss.expect()
      raw.destroy()
    },
  }
}
