"""What the traffic says: everyday sentences in the languages of the voices, most of them not plain ASCII."""

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "Your parcel is on its way and will be there tomorrow before noon.",
        "Please hold the line; the next free colleague is yours.",
        "Chapter four. The harbour lay quiet, and nobody had seen the ship come in.",
        "Turn left after the bridge, then follow the river for two miles.",
        "It’s 7:45 – time to leave, or you’ll miss the train to Zürich.",
        "Well done! You have finished today’s lesson.",
    ),
    "de": (
        "Ihr Paket ist unterwegs und kommt morgen früh.",
        "Bitte bleiben Sie dran, gleich ist jemand für Sie da.",
        "Die Straße über die Höhe ist wegen Schneeglätte gesperrt.",
        "„Kommst du mit?“, fragte sie, und er nickte.",
        "Das macht zusammen 12,50 €.",
    ),
    "fr": (
        "Votre colis est en route et arrivera demain matin.",
        "Où êtes-vous allés cet été ? À la mer, bien sûr !",
        "Le café ferme à vingt heures, dépêchez-vous.",
        "Ça coûte trente-cinq euros, s’il vous plaît.",
    ),
    "es": (
        "Su paquete está en camino y llegará mañana.",
        "¿Dónde está la estación? Al final de la calle, señora.",
        "El niño comió una piña y se echó a dormir.",
        "¡Enhorabuena! Ha terminado la lección de hoy.",
    ),
    "pl": (
        "Państwa paczka jest już w drodze.",
        "Zażółć gęślą jaźń, a potem odpocznij.",
        "Proszę skręcić w lewo za mostem.",
        "Książka leży na półce obok okna.",
    ),
    "hi": (
        "आपका पार्सल रास्ते में है और कल सुबह पहुँचेगा।",
        "कृपया प्रतीक्षा करें, हम जल्द ही आपसे बात करेंगे।",
        "शाबाश! आज का पाठ पूरा हुआ।",
        "पुल के बाद बाएँ मुड़िए।",
    ),
    "zh": (
        "您的包裹正在路上，明天上午送到。",
        "请稍候，马上为您服务。",
        "过桥以后向左转，再走两公里。",
        "做得好！今天的课程完成了。",
    ),
}
