import { ownConnectionSuite } from '../race/own-connection.ts'
import { overlapsSuite } from '../within/overlaps.ts'
import { smallPoolsSuite } from '../within/small-pools.ts'
import { ormEngines } from './connectors-a.ts'

for (const engine of ormEngines()) {
  if (engine.server === undefined) continue
  overlapsSuite(engine, { runs: 8, isolations: ['read committed'] })
  smallPoolsSuite(engine)
  ownConnectionSuite(engine)
}
