import { sql } from 'kysely'
import * as lockRow from '../../protocol/lock-row.ts'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now, seen } from './fragments.ts'
import { byName, namesOf, toJson, toSeen } from './rows.ts'

export function guardStatements({ locks }: Fragments) {
  return {
    // A write, so that a deferred transaction, too, has the file's write lock from here to its end.
    guard: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = l.expires_at
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning name`,
    ),

    // The same, where one name may be asked for several times. The rows that it tells of stay as they are until the end.
    guardShared: statement<{ names: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = l.expires_at
        where name in (select value from json_each(${p.names}))
        returning name, ${seen}`,
    ),
  }
}

export function guard<Tx>({ adapter, runner, fragments, file }: Context<Tx>): Pick<Store<Tx>, 'guard' | 'query'> {
  const statements = guardStatements(fragments)
  return {
    guard(tx, holds) {
      if (file.isAnother() !== null) return holds.map(() => 'lost')
      if (holds.some(({ slot }) => slot !== undefined)) {
        return runner.runIn(tx, statements.guardShared({ names: namesOf(holds) }), ({ rows }) => {
          const standing = byName(rows)
          return holds.map((hold) => {
            const found = standing.get(hold.name)
            if (found === undefined) return 'lost'
            const { row, world } = toSeen(found)
            return lockRow.guard(row!, hold, world)
          })
        })
      }
      return runner.runIn(tx, statements.guard({ holds: toJson(holds) }), ({ rows }) => {
        const standing = byName(rows)
        return holds.map(({ name }) => (standing.has(name) ? 'stands' : 'lost'))
      })
    },

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },
  }
}
