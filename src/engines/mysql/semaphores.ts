import { sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type { Kind, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, limited, now } from './fragments.ts'
import { A_MOMENT } from './row-waits.ts'
import { bytes } from './values.ts'
import { unlocked } from './whole.ts'

export function createStatements({ locks }: Fragments) {
  return {
    // What nobody holds yet. The row that somebody else made meanwhile stays what it is.
    createFor: statement<{ name: Buffer; permits: number | null }>(
      engine,
      (p) => sql`
        insert into ${locks} (name, token, expires_at, permits) values (${p.name}, ${now}, ${now}, ${p.permits})
        on duplicate key update token = token`,
    ),
  }
}

/** Makes a row that is free, if there is none. As for an exclusive hold, only MariaDB can limit how long the INSERT waits. */
export function rowMaker({ server, fragments }: Pick<Context<never>, 'server' | 'fragments'>) {
  const { createFor } = createStatements(fragments)
  return async (
    send: (query: Statement) => Promise<unknown>,
    asked: { readonly name: Buffer; readonly permits: number | null },
  ): Promise<void> => {
    const { dialect } = await server.topology()
    await send(dialect === 'mariadb' ? limited(createFor(asked), A_MOMENT) : createFor(asked))
  }
}

export function semaphores(
  context: Context<never>,
): Pick<Store<never>, 'openSemaphore' | 'resize' | 'available' | 'downgrade'> {
  const { runner, steps, read } = context
  const makeRow = rowMaker(context)

  /** Makes it if there is none: an INSERT would wait for a transaction that has the row. */
  async function open(name: string, permits: number): Promise<Kind> {
    const asked = [{ name }]
    const found = (await read(asked)).get(name)
    if (found !== undefined) return lockRow.kindOf(found)
    await makeRow((query) => runner.run(query), { name: bytes(name), permits })
    return lockRow.kindOf((await read(asked)).get(name) ?? { permits })
  }

  return {
    openSemaphore: open,

    async resize(name, permits) {
      await open(name, permits)
      return steps.step(name, { outcome: 'locked', grants: [] }, (row, world) => lockRow.resize(row, permits, world))
    },

    async available(name) {
      const found = (await steps.read([{ name }], (query) => runner.run(query))).get(name)
      return found === undefined ? null : lockRow.available(found.row, unlocked(found.world))
    },

    downgrade(hold) {
      return steps.step(hold.name, { outcome: 'lost' }, (row, world) => lockRow.downgrade(row, hold, world))
    },
  }
}
