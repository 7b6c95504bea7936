import { sql } from 'kysely'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'
import { byName, toJson } from './rows.ts'

export function renewStatements({ locks }: Fragments) {
  return {
    // A renewal never shortens: a late one is harmless.
    renew: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = max(l.expires_at, ${now} + asked.value ->> 'ttlMs'), handed_to = null
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning name, expires_at - ${now} as remaining`,
    ),
  }
}

export function renew({ runner, fragments, file }: Context<never>): Store<never>['renew'] {
  const statements = renewStatements(fragments)
  return async (holds) => {
    if (file.isAnother() !== null) return holds.map(() => ({ outcome: 'lost', remainingMs: 0 }))
    // A power failure ends the holder, too.
    const renewal = { ...statements.renew({ holds: toJson(holds) }), durable: false }
    const renewed = byName((await runner.run(renewal)).rows)
    return holds.map(({ name }) => {
      const row = renewed.get(name)
      return row ? { outcome: 'renewed', remainingMs: Number(row.remaining) } : { outcome: 'lost', remainingMs: 0 }
    })
  }
}
