import { ownConnectionSuite } from '../race/own-connection.ts'
import { overlapsSuite } from '../within/overlaps.ts'
import { smallPoolsSuite } from '../within/small-pools.ts'
import { ormEngines } from './connectors-a.ts'
import { oncePerEngine } from './engines.ts'

for (const engine of oncePerEngine(ormEngines())) {
  overlapsSuite(engine, { runs: 8, isolations: ['read committed'] })
  smallPoolsSuite(engine)
  ownConnectionSuite(engine)
}
