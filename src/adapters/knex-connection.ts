import { LockError } from '../base/errors.ts'
import type { DedicatedConnection, SqlEngine } from './adapter.ts'
import { connectedRaw } from './raw-connection.ts'

/** A connection beside the pool, made with the pool's own settings, and with what `pool.afterCreate` does with each. */
export async function dedicateKnex(
  engine: SqlEngine,
  { client }: { readonly client: object },
): Promise<DedicatedConnection> {
  const { acquireRawConnection, config } = client as {
    acquireRawConnection?(): Promise<unknown>
    config?: { pool?: { afterCreate?(connection: unknown, done: (error?: unknown) => void): void } }
  }
  if (acquireRawConnection === undefined) {
    throw new LockError(
      'UNSUPPORTED',
      'this client of Knex opens no connection beside its pool: use the option sessions',
    )
  }
  const connection = await acquireRawConnection.call(client)
  const afterCreate = config?.pool?.afterCreate
  if (afterCreate !== undefined) {
    await new Promise<void>((resolve, reject) => {
      afterCreate(connection, (error) => (error ? reject(error) : resolve()))
    })
  }
  return connectedRaw(engine, connection)
}
