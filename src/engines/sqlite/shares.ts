import { type RawBuilder, sql } from 'kysely'
import * as lockRow from '../../protocol/lock-row.ts'
import type { SharedHold, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'
import { ofKnown } from './steps.ts'

export function shareStatements({ locks }: Fragments) {
  /** Of its lock, a hold that `condition` is true of. */
  const end = (p: { [Name in keyof SharedHold]: RawBuilder<SharedHold[Name]> }, condition: RawBuilder<unknown>) => {
    const mine = sql`value ->> 'slot' = ${p.slot} and value ->> 'owner' = ${p.owner} and value ->> 'token' = cast(${p.token} as text)`
    return sql`
        update ${locks} as l
        set expires_at = max(l.expires_at, (select min(value ->> 'until', ${now}) from json_each(l.shares) where ${mine})),
            shares = (select nullif(json_group_array(json(value)), '[]') from json_each(l.shares) where not (${mine}))
        where name = ${p.name} and exists (select 1 from json_each(l.shares) where ${mine} and ${condition})
        returning queue is not null as awaited`
  }

  return {
    adoptIn: statement<SharedHold>(engine, (p) => end(p, sql`value ->> 'until' > ${now}`)),

    releaseSharedIn: statement<SharedHold>(engine, (p) => end(p, sql`true`)),
  }
}

export function shares<Tx>({
  runner,
  fragments,
  file,
  steps,
}: Context<Tx>): Pick<Store<Tx>, 'adoptIn' | 'downgrade' | 'openSemaphore' | 'resize' | 'available'> {
  const statements = shareStatements(fragments)
  return {
    // Until the transaction ends nobody else writes, so what it has ended counts as long as it is to.
    adoptIn(tx, hold) {
      if (hold.slot === undefined || file.isAnother() !== null) return 'lost'
      const adopt = statements.adoptIn({ ...hold, slot: hold.slot })
      return runner.runIn(tx, adopt, ({ rows }) => (rows.length === 1 ? 'stands' : 'lost'))
    },

    async downgrade(hold, process) {
      const [result] = await steps.step([hold], ofKnown({ outcome: 'lost' }, lockRow.downgrade), { by: process })
      return result!
    },

    async openSemaphore(name, permits) {
      await file.assertSame()
      const [kind] = await steps.step([{ name }], (row, _, world) => {
        const known = row ?? lockRow.newSemaphore(name, permits, world)
        return { row: known, reply: lockRow.kindOf(known), grants: [] }
      })
      return kind!
    },

    async resize(name, permits, process) {
      await file.assertSame()
      const resize = (row: lockRow.LockRow | undefined, _: unknown, world: lockRow.World) =>
        lockRow.resize(row ?? lockRow.newRow(name, permits), permits, world)
      const [result] = await steps.step([{ name }], resize, { by: process })
      return result!
    },

    async available(name) {
      const [found] = await steps.found([{ name }])
      return found === undefined ? null : lockRow.available(found.row, found.world)
    },
  }
}
